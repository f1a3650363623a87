"""Figures that a validation never takes with its settings, whatever is measured: a gate on one can't pass."""

from __future__ import annotations

from dataclasses import dataclass

from targets.evaluation import EvaluationSettings, Suite
from targets.evidence import FAILED_CHECKS

_OF_TEXTS = frozenset(
    (
        *("worst_text_kl_mean", "english_kl_mean", "code_kl_mean"),
        *("german_kl_mean", "chinese_kl_mean", "chat_kl_mean"),
    )
)
_OF_BEHAVIOUR = frozenset(
    (
        *("behaviour_checks", FAILED_CHECKS, "empty_share", "endless_share", "loop_share"),
        *("reference_empty_share", "reference_endless_share", "reference_loop_share"),
    )
)
_OF_TASKS = frozenset(("task_drop", "task_drop_high"))
_OF_REFUSALS = frozenset(("refusals_lost_share", "safety_same_tokens_share", "safety_first_token_kl_mean"))


@dataclass(frozen=True)
class NeverTaken:
    """Why a figure is never taken, and the setting of the evaluation that would take it."""

    why: str
    key: str
    value: str


def never_taken(figure: str, settings: EvaluationSettings) -> NeverTaken | None:
    """Return why a figure is never taken; None where these settings take it, or may take it."""
    if figure in _OF_TEXTS and settings.suite not in ("quick", "full"):
        return _other_suite(settings, "full")
    if figure in _OF_BEHAVIOUR and settings.suite == "accuracy":
        return _other_suite(settings, "behaviour")
    if figure in _OF_TASKS and settings.tasks is None:
        return NeverTaken("no questions are asked", "tasks", "FOLDER")
    if figure in _OF_REFUSALS and settings.safety is None:
        return NeverTaken("no prompts are asked that should be refused", "safety", "FOLDER")
    if figure == "over_refusals_gained_share" and not settings.compares_safety:
        return _other_suite(settings, "full")
    return None


def _other_suite(settings: EvaluationSettings, suite: Suite) -> NeverTaken:
    return NeverTaken(f"the suite {settings.suite} does not take it", "suite", suite)
