"""Which of two figures is better, and by how much it must be worse to be a finding."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from builders.report.comparing import FigureRow, figure_rows
from builders.report.content import CellContent
from builders.report.findings import findings
from builders.report.recipes import recipe_of
from targets.evidence import FIGURES, Figure
from targets.evidence_details import Check
from tests.support.report_samples import answers, details, prediction


@pytest.mark.parametrize(
    ("name", "before", "after", "word", "says"),
    [
        ("refusals_lost_share", 0.0, 0.3, "worse", "30.0 points worse"),
        ("task_drop", 0.05, 0.01, "better", ""),
        ("task_drop_high", 0.01, 0.05, "worse", "4.0 points worse"),
        ("over_refusals_gained_share", 0.0, 0.25, "worse", "25.0 points worse"),
        ("endless_share", 0.0, 0.005, "", ""),  # of four answers
        ("loop_share", 1.0, 0.1, "better", ""),
        ("reference_loop_share", 0.1, 0.5, "", ""),
        ("behaviour_checks", 30, 10, "", ""),
        ("behaviour_failed_checks", 0, 2, "worse", "2, worse than 0"),
        ("same_top_share", 0.95, 0.94, "worse", "1.0 points worse"),
        ("same_top_share", 0.95, 0.945, "worse", ""),
        ("greedy_match_share", 0.1, 0.9, "better", ""),
        ("kl_max", 2.0, math.inf, "worse", "worse than 2"),
        ("kl_max", math.inf, 2.0, "better", ""),
        ("kl_max", math.inf, math.inf, "", ""),
        ("kl_mean", 0.0, 0.02, "worse", "0.02 nat, worse than 0 nat"),
        ("kl_max", 2.0, 6.0, "", ""),
        ("kl_standard_error", 0.01, 0.1, "", ""),
        ("decode_tokens_per_second", 10.0, 5.0, "", ""),
        ("prefill_tokens_per_second", 5.0, 10.0, "", ""),
        ("device_decode_tokens_per_second", 10.0, 5.0, "worse", "50% worse"),
        ("artifact_bytes", 100.0, 50.0, "better", ""),
        ("artifact_bytes", 100e6, 100e6 + 24, "", ""),
        ("a_figure_of_a_later_phipack", 1.0, 9.0, "", ""),
    ],
)
def test_what_is_worse_is_called_so(
    cell: CellContent, name: str, before: float, after: float, word: str, says: str
) -> None:
    both = _with(cell, {name: before}, {name: after})
    assert _row(both, name).word == word
    said = [one.text for one in findings(both) if one.anchor in ("baseline", "speed")]
    assert [says in text for text in said] == ([True] if says else []), said


def test_what_is_worse_in_accuracy_is_one_finding_and_the_hosts_speed_is_none(cell: CellContent) -> None:
    figures = {"kl_mean": 0.03, "kl_p99": 0.3, "same_top_share": 0.9, "decode_tokens_per_second": 20.0}
    factors = {"same_top_share": 0.9, "decode_tokens_per_second": 0.5}
    both = _with(cell, figures, {name: value * factors.get(name, 3) for name, value in figures.items()})
    found = [(one.severity, one.text) for one in findings(both) if one.anchor in ("baseline", "speed")]
    kl, name = FIGURES["kl_mean"][1], "phi:1.0.0@iphone-15"
    worse = f"{kl}: 0.09 nat, 200% worse than 0.03 nat of {name}. So are 2 other figures of accuracy."
    assert found == [("look", worse)]
    assert both.baseline is not None
    recipe = both.candidate.manifest.recipe.model_copy(update={"name": "gguf-iq4_nl"})
    manifest = both.candidate.manifest.model_copy(update={"recipe": recipe})
    other = findings(replace(both, candidate=replace(both.candidate, manifest=manifest)))
    (text,) = (one.text for one in other if one.anchor == "baseline")
    before = recipe_of(both.baseline.manifest)
    after = recipe_of(manifest)
    assert text == f"{worse} The recipe is another one, {before} → {after}; by text 1.1 to 1.1 times 1.0.0's."


@pytest.mark.parametrize(
    ("numbers", "limits", "word", "title"),
    [
        ((4, 4), (256, 256), "worse", ", of 4 answers, cut at 256 tokens"),
        ((4, 4), (16, 16), "", ", of 4 answers, cut at 16 tokens"),
        ((4, 3), (256, 256), "", ", of 4 answers, cut at 256 tokens, then of 3 answers, cut at 256 tokens"),
        ((4, 4), (None, None), "worse", ", of 4 answers"),
    ],
)
def test_shares_of_answers_are_compared_where_both_are_of_as_many_that_had_room_to_end(
    cell: CellContent, numbers: tuple[int, int], limits: tuple[int | None, int | None], word: str, title: str
) -> None:
    both = _with(cell, {"endless_share": 0.25}, {"endless_share": 1.0})
    old, new = (
        _answered(side, number, limit)
        for side, number, limit in zip((both.baseline, both.candidate), numbers, limits, strict=True)
    )
    found = replace(both, baseline=old, candidate=new)
    row = _row(found, "endless_share")
    assert row.word == word
    assert row.title == FIGURES["endless_share"][1] + title
    assert len([one for one in findings(found) if one.anchor == "baseline"]) == bool(word)


def _answered(subject: Any, number: int, limit: int | None) -> Any:
    """Return a side with a check that counts its answers; `limit`: tokens at which they were cut."""
    name = f"share of {number} answers: endless"
    check = Check(group="degeneration", name=name, passed=True, value=0.75, bound=0.9, unit="share")
    changes: dict[str, Any] = {"bundle_ended": True} if limit is None else {"bundle_ended": False, "tokens": limit}
    given = details(checks=(check,), answers=tuple(one.model_copy(update=changes) for one in answers()))
    return replace(subject, evidence=subject.evidence.model_copy(update={"details": given}))


@pytest.mark.parametrize("changed", [{"text": "sha256:other, 2 windows"}, {"checkpoint": "sha256:" + "9" * 64}])
def test_divergences_of_different_texts_are_not_compared(cell: CellContent, changed: dict[str, str]) -> None:
    both = _with(cell, {"kl_mean": 0.01, "loop_share": 0.0}, {"kl_mean": 0.04, "loop_share": 1.0})
    assert _row(both, "kl_mean").better is False
    evidence = both.candidate.evidence
    assert evidence is not None
    other = replace(both, candidate=replace(both.candidate, evidence=evidence.model_copy(update=changed)))
    assert _row(other, "kl_mean").better is None
    assert _row(other, "loop_share").better is False
    said = [one for one in findings(other) if one.anchor == "baseline"]
    assert [one.severity for one in said] == ["look", "note"]
    assert said[1].text.startswith("KL divergence, same top token and perplexity ratio of the two ")


@pytest.mark.parametrize(
    ("name", "before", "after", "remark"),
    [
        ("predicted_decode_tokens_per_second", "pixel-9, roofline", "galaxy-s24, roofline", "pixel-9, then galaxy-s24"),
        ("english_kl_mean", "256 tokens of the built-in text english, a", "1024 tokens of it, a", "256 tokens of the"),
        (
            "safety_same_tokens_share",
            "50 prompts of A, llama.cpp",
            "9 prompts of A, llama.cpp",
            "50 prompts of A, then",
        ),
        ("device_decode_tokens_per_second", "iPhone15,4, iOS 18", "iPhone17,1, iOS 18", "iPhone15, then iPhone17"),
        ("device_decode_tokens_per_second", "iPhone15,4, iOS 18", "iPhone15,4, iOS 19", ""),
        ("english_kl_mean", "256 tokens of it, llama.cpp 1", "256 tokens of it, llama.cpp 2", ""),
        ("kl_mean", "4096 tokens of a.txt, llama.cpp", "4096 tokens of b.txt, llama.cpp", ""),  # the digest is the same
    ],
)
def test_what_was_taken_on_other_tokens_prompts_or_phones_is_not_compared(
    cell: CellContent, name: str, before: str, after: str, remark: str
) -> None:
    both = _with(cell, {name: 0.3}, {name: 0.1})
    assert _row(both, name).word
    old, new = (_taken_on(side, name, on) for side, on in ((both.baseline, before), (both.candidate, after)))
    row = _row(replace(both, baseline=old, candidate=new), name)
    assert (row.word == "", remark in row.remark, bool(row.remark)) == (bool(remark), True, bool(remark))


def test_the_worst_of_other_texts_is_not_compared(cell: CellContent) -> None:
    name = "worst_text_kl_mean"
    both = _with(cell, {name: 0.01}, {name: 0.1})
    assert _row(both, name).word == "worse"
    fewer = details().model_copy(update={"texts": details().texts[:2]})
    evidence = both.baseline.evidence.model_copy(update={"details": fewer})
    row = _row(replace(both, baseline=replace(both.baseline, evidence=evidence)), name)
    assert (row.word, row.remark) == ("", "not comparable: of other texts")


def test_a_text_that_was_read_in_other_windows_is_not_compared(cell: CellContent) -> None:
    """Its tokens are as many, and stand at other positions: where the context window is another one."""
    found = _with(cell, {"german_kl_mean": 0.01}, {"german_kl_mean": 0.1})
    assert _row(found, "german_kl_mean").word == "worse"
    texts = [
        one.model_copy(update={"kl_mean": 9.0, "prediction": prediction("other windows", 12, 1)})
        if one.text == "german"
        else one
        for one in details().texts
    ]
    evidence = found.candidate.evidence.model_copy(update={"details": details(texts=tuple(texts))})
    found = replace(found, candidate=replace(found.candidate, evidence=evidence))
    row = _row(found, "german_kl_mean")
    assert (row.word, row.remark) == ("", "not comparable: other tokens, or at other positions")
    assert not [one for one in findings(found) if "of phi:1.0.0@iphone-15; the other texts" in one.text]


def _taken_on(subject: Any, name: str, on: str) -> Any:
    figures = {name: subject.evidence.figures[name].model_copy(update={"on": on})}
    return replace(subject, evidence=subject.evidence.model_copy(update={"figures": figures}))


def test_the_same_bundle_measured_on_another_text_says_so(cell: CellContent) -> None:
    evidence = cell.candidate.evidence
    assert evidence is not None
    name = "phi:1.0.0@iphone-15"
    same = replace(cell, baseline=replace(cell.candidate, name=name), difference=None)
    for changed, said in (({"text": "sha256:other"}, True), ({"checkpoint": "sha256:" + "9" * 64}, False), ({}, False)):
        other = replace(same, candidate=replace(same.candidate, evidence=evidence.model_copy(update=changed)))
        assert any("neither is called better by them" in one.text for one in findings(other)) == said


def test_a_claim_next_to_a_measurement_is_called_both(cell: CellContent) -> None:
    name = "device_decode_tokens_per_second"
    both = _with(cell, {name: 10.0}, {name: 10.0}, old_kind="claimed")
    assert _row(both, name).kind == "claimed, then measured"
    assert _row(_with(cell, {name: 10.0}, {name: 10.0}), name).kind == "measured"


def _with(cell: CellContent, before: dict[str, float], after: dict[str, float], old_kind: Any = "measured") -> Any:
    assert cell.baseline is not None
    return replace(
        cell,
        candidate=_subject(cell.candidate, after, "measured"),
        baseline=_subject(cell.baseline, before, old_kind),
    )


def _subject(subject: Any, values: dict[str, float], kind: Any) -> Any:
    figures = {
        name: Figure(value=value, unit=FIGURES.get(name, ("1",))[0], kind=kind, on="x")
        for name, value in values.items()
    }
    return replace(subject, evidence=subject.evidence.model_copy(update={"figures": figures}))


def _row(cell: CellContent, name: str) -> FigureRow:
    return next(row for row in figure_rows(cell) if row.name == name)
