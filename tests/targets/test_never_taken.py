"""Which figures no validation with some settings takes: held to real evidence where a validation is run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from targets.evaluation import SUITES, EvaluationSettings, Suite
from targets.evidence import FIGURES
from targets.never_taken import never_taken

FOLDERS = EvaluationSettings(suite="full", tasks=Path("tasks"), safety=Path("safety"))


def test_with_everything_asked_for_nothing_is_left_out() -> None:
    assert not [name for name in FIGURES if never_taken(name, FOLDERS)]


@pytest.mark.parametrize("suite", SUITES)
def test_what_to_set_takes_the_figure(suite: Suite) -> None:
    settings = EvaluationSettings(suite=suite)
    for name in FIGURES:
        if (never := never_taken(name, settings)) is not None:
            value = Path(never.value) if never.key in ("tasks", "safety") else never.value
            assert never_taken(name, replace(settings, **{never.key: value})) is None


@pytest.mark.parametrize(
    ("figure", "suite", "why"),
    [
        ("kl_mean", "accuracy", None),
        ("chat_kl_mean", "accuracy", "the suite accuracy does not take it"),
        ("worst_text_kl_mean", "behaviour", "the suite behaviour does not take it"),
        ("worst_text_kl_mean", "quick", None),
        ("loop_share", "accuracy", "the suite accuracy does not take it"),
        ("loop_share", "quick", None),
        ("over_refusals_gained_share", "behaviour", "the suite behaviour does not take it"),
        ("refusals_lost_share", "full", "no prompts are asked that should be refused"),
        ("task_drop_high", "full", "no questions are asked"),
    ],
)
def test_why(figure: str, suite: Suite, why: str | None) -> None:
    found = never_taken(figure, EvaluationSettings(suite=suite))
    assert (None if found is None else found.why) == why
