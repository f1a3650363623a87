"""Refusals and answers that don't end, next to production's: the candidate's own checkpoint may do as wrongly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from builders.report.content import CellContent, Content, Subject
from builders.report.findings import findings, overall
from builders.report.page import html
from targets.evidence_details import HARMLESS_PROMPTS, Answer, SafetyResult
from tests.support.parsed_html import parsed

BAD = "HarmBench"


@pytest.mark.parametrize(
    ("prompts", "before", "after", "severity"),
    [
        (HARMLESS_PROMPTS, 0, 4, "defect"),  # as a checkpoint that was trained on refusals does
        (HARMLESS_PROMPTS, 1, 2, ""),
        (HARMLESS_PROMPTS, 2, 3, ""),
        (HARMLESS_PROMPTS, 2, 4, "defect"),
        (HARMLESS_PROMPTS, 4, 0, ""),
        (BAD, 4, 2, "defect"),
        (BAD, 4, 1, "defect"),
        (BAD, 4, 3, ""),
        (BAD, 0, 4, ""),
    ],
)
def test_refusals_are_compared_with_productions(
    cell: CellContent, prompts: str, before: int, after: int, severity: str
) -> None:
    """Each agrees with float32, which is what the bundle's own figures compare."""
    found = _with_safety(cell, [_result(prompts, before)], [_result(prompts, after)])
    said = [one for one in findings(found) if one.text.startswith(f"Safety, {prompts}: ")]
    assert [one.severity for one in said] == ([severity] if severity else [])
    if severity:
        assert said[0].text.endswith(f"; 1.0.0 refused {before} of them.")
        assert f"{prompts}: {after} of 4 " in overall(Content("phi:1.1.0", (found,))).text


def test_another_number_of_prompts_is_not_compared(cell: CellContent) -> None:
    old = _result(HARMLESS_PROMPTS, 0).model_copy(update={"count": 16})
    found = _with_safety(cell, [old], [_result(HARMLESS_PROMPTS, 4)])
    assert not [one for one in findings(found) if one.text.startswith("Safety, ")]


def test_a_few_more_of_many_are_to_be_judged(cell: CellContent) -> None:
    sides = [[_result(HARMLESS_PROMPTS, refused, count=16)] for refused in (1, 4)]
    (said,) = (one for one in findings(_with_safety(cell, *sides)) if one.text.startswith("Safety, "))
    assert said.severity == "look"


def test_productions_refusals_stand_next_to_the_candidates(cell: CellContent) -> None:
    found = _with_safety(cell, [_result(HARMLESS_PROMPTS, 0)], [_result(HARMLESS_PROMPTS, 4)])
    page = parsed(html(Content("phi:1.1.0", (found,), against="phi:production")))
    said = f"{HARMLESS_PROMPTS}: this refuses 4 of 4, float32 of its own checkpoint 4, 1.0.0 0"
    assert [one for one in page.all("p") if said in one.text]


@pytest.mark.parametrize(
    ("before", "after", "severity"),
    [
        ((), ("<|im_start|>",), "defect"),
        (None, ("<|im_start|>",), "look"),
        (("<|im_start|>",), ("<|im_start|>",), ""),
        ((), (), ""),
        ((), None, ""),
    ],
)
def test_an_answer_that_begins_another_turn_is_a_probable_defect(
    cell: CellContent, before: Sequence[str] | None, after: Sequence[str] | None, severity: str
) -> None:
    found = _with_answers(cell, before, after)
    said = [one for one in findings(found) if "special tokens in the text" in one.text]
    assert [one.severity for one in said] == ([severity] if severity else [])
    if severity:
        assert said[0].text.startswith("1 of 2 answers has special tokens in the text, such as <|im_start|>")


def test_where_production_was_asked_nothing_its_answers_are_not_said_to_have_none(cell: CellContent) -> None:
    found = _changed(_with_answers(cell, (), ("<|im_start|>",)), {"answers": ()}, {})
    (said,) = (one for one in findings(found) if "special tokens in the text" in one.text)
    assert (said.severity, "None of" in said.text) == ("look", False)


def _result(prompts: str, refused: int, *, count: int = 4) -> SafetyResult:
    return SafetyResult(
        prompts=prompts,
        count=count,
        same_tokens_share=1,
        first_token_kl_mean=0,
        reference_refusals=refused,
        refusals=refused,
        refusals_lost=0,
        licence="MIT",
    )


def _with_safety(cell: CellContent, *sides: Sequence[SafetyResult]) -> CellContent:
    before, after = ({"safety": tuple(side)} for side in sides)
    return _changed(cell, before, after)


def _with_answers(cell: CellContent, *sides: Sequence[str] | None) -> CellContent:
    def answers(special: Sequence[str] | None) -> tuple[Answer, ...]:
        text = f"380.{''.join(special or ())}"
        one = Answer(prompt="?", reference=text, bundle=text, tokens=9, reference_ended=False, bundle_ended=False)
        known = None if special is None else ()
        return (
            one.model_copy(update={"special_tokens": None if special is None else tuple(special)}),
            one.model_copy(update={"prompt": "!", "special_tokens": known}),
        )

    before, after = ({"answers": answers(side)} for side in sides)
    return _changed(cell, before, after)


def _changed(cell: CellContent, before: Mapping[str, object], after: Mapping[str, object]) -> CellContent:
    assert cell.baseline is not None
    return replace(cell, baseline=_side(cell.baseline, before), candidate=_side(cell.candidate, after))


def _side(side: Subject, changes: Mapping[str, object]) -> Subject:
    assert side.evidence is not None
    assert side.evidence.details is not None
    details = side.evidence.details.model_copy(update=changes)
    return replace(side, evidence=side.evidence.model_copy(update={"details": details}))
