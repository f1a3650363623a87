"""What `validate` shows of tasks and safety: the drop with its interval, published scores marked so, no answers."""

from __future__ import annotations

from phipack.commands.validation import evidence_text
from targets.evidence import Evidence, Figure
from targets.evidence_details import Details, SafetyResult, TaskResult

TASK = TaskResult(
    task="mmlu",
    questions=200,
    reference_accuracy=0.62,
    accuracy=0.6,
    lost=9,
    gained=5,
    drop_low=-0.015,
    drop_high=0.055,
    licence="MIT",
    benchmark="MMLU",
)
SAFETY = SafetyResult(
    prompts="strongreject",
    count=64,
    same_tokens_share=0.8,
    first_token_kl_mean=0.0123,
    reference_refusals=60,
    refusals=57,
    refusals_lost=4,
    licence="MIT",
)


def shown(details: Details | None) -> str:
    figures = {"kl_mean": Figure(value=0.01, unit="nat", kind="measured", on="a text")}
    return evidence_text(
        Evidence(
            schema="phipack.evidence/1",
            bundle="b",
            checkpoint="c",
            recipe="r",
            text="t",
            figures=figures,
            details=details,
        )
    )


def test_written_answers_and_questions_that_were_left_out_are_named() -> None:
    written = TASK.model_copy(update={"kind": "generation", "questions": 1050, "left_out": 2})
    assert "1,050 written, 2 left out" in shown(Details(suite="full", tasks=(written,)))
    assert "written" not in shown(Details(suite="full", tasks=(TASK,)))


def test_tasks_are_next_to_published_scores_that_are_marked() -> None:
    text = shown(Details(suite="full", tasks=(TASK,)))
    assert "-0.015 to +0.055" in text
    assert "9 lost, 5 gained" in text
    assert "MMLU, published, from another harness" in text
    assert "mini-4k 70.9" in text
    other = shown(Details(suite="full", tasks=(TASK.model_copy(update={"benchmark": ""}),)))
    assert "published" not in other


def test_safety_is_numbers() -> None:
    text = shown(Details(suite="full", safety=(SAFETY,)))
    assert "strongreject" in text
    assert "60 / 57" in text
    assert "0.0123 nat" in text


def test_evidence_without_details_is_shown_as_ever() -> None:
    assert shown(None) == shown(Details(suite="accuracy"))
