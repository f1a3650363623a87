"""Runs the groups of checks, and sums them up as figures."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from builders.runtime.text_engines import open_text_engines
from builders.validation.answers import Answered
from builders.validation.behaviour.cache import check_cache
from builders.validation.behaviour.degeneration import check_degeneration
from builders.validation.behaviour.edges import check_edges
from builders.validation.behaviour.ids import check_ids
from builders.validation.behaviour.subject import Subject
from builders.validation.behaviour.template import check_template
from targets.evidence_details import Check, NotRun
from targets.progress import Step

_GROUPS = 5


@dataclass(frozen=True)
class Behaviour:
    """What the suite found. `figures`: by the names of `targets.evidence.FIGURES`."""

    checks: tuple[Check, ...]
    not_run: tuple[NotRun, ...]
    figures: dict[str, float]


def check_behaviour(
    subject: Subject, answered: Answered, figures: Collection[str] = (), cache_end: int | None = None
) -> Behaviour:
    """Run the suite.

    `answered`: greedy answers. `figures`: those that were taken on the text. `cache_end`: `stretches.full_cache_end`.

    Raises:
        MeasurementError: the runtime refuses the bundle, or the chat template exceeds a limit.
    """
    groups = []
    subject.on_progress(Step("behaviour", 0, _GROUPS))
    groups.append(check_edges(subject))
    subject.on_progress(Step("behaviour", 1, _GROUPS))
    with open_text_engines(subject.bundle) as engines:
        groups.append(check_ids(subject, engines))
        subject.on_progress(Step("behaviour", 2, _GROUPS))
        groups.append(check_template(subject, engines))
    subject.on_progress(Step("behaviour", 3, _GROUPS))
    groups.append(check_cache(subject, figures, cache_end))
    degeneration = check_degeneration(answered)
    groups.append(degeneration.findings)
    checks = tuple(check for group in groups for check in group.checks)
    failed = sum(not check.passed for check in checks)
    subject.on_progress(Step("behaviour", _GROUPS, _GROUPS))
    return Behaviour(
        checks,
        tuple(one for group in groups for one in group.not_run),
        {"behaviour_checks": len(checks), "behaviour_failed_checks": failed} | degeneration.figures,
    )
