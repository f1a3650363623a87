"""What is different from production's bundle, in sentences that say what follows from it."""

from __future__ import annotations

import difflib
from dataclasses import replace
from typing import Any

import pytest

from builders.report.changes import app_changes, origin_changes
from builders.report.content import CellContent, Subject
from builders.report.findings import findings
from builders.report.template_difference import blocks, in_words
from targets.evidence import Figure
from tests.support.report_samples import answers, details

TEMPLATE = "{% for m in messages %}{{ m.content + '\n' }}{% endfor %}\n{{ '<|assistant|>\n' }}"


@pytest.fixture
def same(cell: CellContent) -> CellContent:
    """A cell that is exactly what production has."""
    assert cell.baseline is not None
    return CellContent(cell.candidate, replace(cell.candidate, name=cell.baseline.name))


@pytest.mark.parametrize(
    ("before", "after", "meaning"),
    [
        ([0, 2], [0], "answers that ended with 2 run on"),
        ([0], [0, 1, 2], "answers end with 1 or 2, too"),
        ([0, 2], [0, 7], "answers that ended with 2 run on; answers end with 7, too"),
        ([0, 2], [0, 2], ""),
    ],
)
def test_what_a_stop_id_means_is_said(same: CellContent, before: list[int], after: list[int], meaning: str) -> None:
    stops = {"stop_token_ids": before}, {"stop_token_ids": after}
    found = _of_both(same, *({"generation": _generation(same, one)} for one in stops))
    change = next(one for one in app_changes(found) if one.what == "stop ids")
    assert (change.meaning, change.must_follow) == (meaning, bool(meaning))
    said = [one.text for one in findings(found) if "stop ids" in one.text]
    assert [meaning in text for text in said] == ([True] if meaning else [])


def test_another_checkpoint_is_the_first_thing_to_look_at_for_what_no_gate_shows(same: CellContent) -> None:
    """Bundle and reference agree on whatever the checkpoint has wrong."""
    found = _of_both(same, {}, {"checkpoint": "sha256:" + "9" * 64})
    (text,) = (one.text for one in findings(found) if one.severity == "look" and "checkpoint" in one.text)
    assert text.startswith("The checkpoint is another one than that of phi:1.0.0@iphone-15.")
    assert "no divergence, check or gate" in text
    assert [one.what for one in origin_changes(found) if one.changed] == ["checkpoint"]
    assert [one for one in findings(same) if "checkpoint" in one.text] == []


@pytest.mark.parametrize(("before", "after", "said"), [(14.0, 15.0, True), (14.0, 14.1, False), (14.0, 12.0, False)])
def test_a_worse_checkpoint_shows_in_float32s_own_perplexity(
    same: CellContent, before: float, after: float, *, said: bool
) -> None:
    values = ({"reference_perplexity": one, "perplexity": 1.01 * one} for one in (before, after))
    found = _of_both(_with_figures(same, *values), {}, {"checkpoint": "sha256:" + "9" * 64})
    evidence = found.candidate.evidence
    assert evidence is not None
    other = evidence.model_copy(update={"checkpoint": "sha256:" + "9" * 64})
    found = replace(found, candidate=replace(found.candidate, evidence=other))
    texts = [one.text for one in findings(found) if one.text.startswith("the checkpoint's perplexity")]
    assert bool(texts) == said
    unlike = replace(found, candidate=replace(found.candidate, evidence=other.model_copy(update={"text": "sha256:1"})))
    assert not [one for one in findings(unlike) if one.text.startswith("the checkpoint's perplexity")]


def test_a_note_that_production_does_not_have_is_to_be_read(same: CellContent) -> None:
    recipe = same.candidate.manifest.recipe
    note = "the chat template ends a turn with <|end|> (7), which is not among the stop ids: answers may run on"
    found = _of_both(same, {}, {"recipe": recipe.model_copy(update={"notes": [note]})})
    assert [one.severity for one in findings(found) if note in one.text] == ["look"]
    both = _of_both(same, *({"recipe": recipe.model_copy(update={"notes": [note]})} for _ in range(2)))
    assert not [one for one in findings(both) if note in one.text]
    other = _of_both(same, {}, {"recipe": recipe.model_copy(update={"notes": [note], "name": "gguf-q6_k"})})
    assert not [one for one in findings(other) if note in one.text]


def test_answers_that_ended_in_production_and_run_on_are_counted_though_float32_runs_on_too(same: CellContent) -> None:
    endless = [one.model_copy(update={"bundle_ended": False, "reference_ended": False}) for one in answers()]
    found = replace(same, candidate=_with_details(same.candidate, answers=tuple(endless)))
    said = "4 answers end in phi:1.0.0@iphone-15, and neither here nor in float32."
    assert said in [one.text for one in findings(found)]
    one = _with_details(same.candidate, answers=(*answers()[:-1], endless[-1]))
    said = [one.text for one in findings(replace(same, candidate=one)) if one.anchor == "answers"]
    assert said == ["1 answer ends in phi:1.0.0@iphone-15, and neither here nor in float32."]


def test_one_text_that_is_far_worse_than_in_production_is_named(same: CellContent) -> None:
    """It may still be the best of all: then nothing within this release stands out."""
    texts = [one.model_copy(update={"kl_mean": 0.05}) if one.text == "code" else one for one in details().texts]
    found = replace(same, candidate=_with_details(same.candidate, texts=tuple(texts)))
    (said,) = (one.text for one in findings(found) if one.anchor == "texts")
    assert said.startswith("Text code: 0.05 nat, 2.9 times the 0.017 of phi:1.0.0@iphone-15;")
    assert said.endswith("; the other texts have at most 1.0 times theirs.")
    all_worse = [one.model_copy(update={"kl_mean": 3 * one.kl_mean}) for one in details().texts]
    found = replace(same, candidate=_with_details(same.candidate, texts=tuple(all_worse)))
    assert [one.text for one in findings(found) if one.anchor == "texts"] == []


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (TEMPLATE.replace("|>\n", "|>"), "“\\n” is gone"),
        (TEMPLATE.replace("|>", "|> "), "“ ” is new"),
        (TEMPLATE + "\n", "“\\n” is new"),
        (TEMPLATE.replace("assistant", "model"), "“assistant” becomes “model”"),
        (TEMPLATE + "x y" * 200, ""),
    ],
)
def test_a_small_difference_of_a_template_is_quoted(after: str, words: str) -> None:
    difference = _difference(TEMPLATE, after)
    assert in_words(difference) == words
    for kind, text in (("gone", TEMPLATE), ("new", after)):
        shown = "".join(piece.text for one in blocks(difference) if one.kind in (kind, "same") for piece in one.pieces)
        assert shown.replace("⏎", "").replace("·", " ").removesuffix("\n") in text + "\n"


def test_white_space_that_differs_is_visible() -> None:
    marks = [
        piece.text
        for one in blocks(_difference(TEMPLATE, TEMPLATE.replace("|>\n", "|> ")))
        for piece in one.pieces
        if piece.differs
    ]
    assert marks == ["⏎\n", "·"]


def _difference(before: str, after: str) -> tuple[str, ...]:
    return tuple(difflib.unified_diff(before.split("\n"), after.split("\n"), "a", "b", lineterm=""))


def _generation(cell: CellContent, changes: dict[str, Any]) -> Any:
    return cell.candidate.manifest.generation.model_copy(update=changes)


def _of_both(cell: CellContent, before: dict[str, Any], after: dict[str, Any]) -> CellContent:
    """Return a cell with these parts of the two manifests."""
    assert cell.baseline is not None
    old, new = (
        replace(side, manifest=side.manifest.model_copy(update=changes))
        for side, changes in ((cell.baseline, before), (cell.candidate, after))
    )
    return replace(cell, candidate=new, baseline=old)


def _with_figures(cell: CellContent, before: dict[str, float], after: dict[str, float]) -> CellContent:
    assert cell.baseline is not None
    sides = []
    for side, values in ((cell.baseline, before), (cell.candidate, after)):
        assert side.evidence is not None
        figures = {name: Figure(value=value, unit="1", kind="measured", on="x") for name, value in values.items()}
        sides.append(replace(side, evidence=side.evidence.model_copy(update={"figures": figures})))
    return replace(cell, baseline=sides[0], candidate=sides[1])


def _with_details(side: Subject, **changes: Any) -> Subject:
    assert side.evidence is not None
    return replace(side, evidence=side.evidence.model_copy(update={"details": details(**changes)}))
