"""What is drawn: of the candidate, in order, with every letter shown or named."""

from __future__ import annotations

import re
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from builders.report.charts import Chart, Mark, Series, charts
from builders.report.content import CellContent
from builders.report.drawing import draw
from targets.evidence_details import PositionDivergence
from tests.support.report_samples import compared, details


def test_the_baselines_details_alone_are_not_drawn(cell: CellContent) -> None:
    evidence = cell.candidate.evidence
    assert evidence is not None
    bare = replace(cell.candidate, evidence=evidence.model_copy(update={"details": None}))
    assert list(charts(replace(cell, candidate=bare))) == ["storage"]


def test_positions_of_two_sides_are_in_their_order(tmp_path: Path) -> None:
    """Where the context or the window is another, so are the ranges."""
    cell = compared(tmp_path, details(positions=(_position(1, 64), _position(513, 4096))))
    assert cell.baseline is not None
    labels = charts(cell)["positions"].labels
    firsts = [int(label.split("\N{EN DASH}")[0].replace(",", "")) for label in labels]
    assert firsts == sorted(firsts)
    assert len(labels) == 6


@pytest.mark.parametrize("kind", ["dots", "steps", "bars"])
def test_labels_are_printable_and_no_letter_is_warned_of(kind: str) -> None:
    marks = (Mark("red\u202egnihton\x1b", 1.0), Mark("\u4e2d\u6587", 2.0))
    chart = Chart("texts", "by\u202etext", "nat", kind, (Series("a\u202eb", marks), Series("c", marks)))  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawing = draw(chart)
        drawn = drawing.svg("one")
        drawing.png()
    assert "\u202e" not in drawn
    assert "\x1b" not in drawn
    for shown in ("red\\u202egnihton\\x1b", "a\\u202eb", "by\\u202etext"):
        assert shown in drawn


def test_numbers_of_an_axis_are_few_enough_to_stay_apart() -> None:
    """Eight of them ran together under the text of this name, which leaves less room."""
    marks = tuple(
        Mark(name, value, 0.8 * value, 1.2 * value) for name, value in (("openwebtext.txt", 0.009), ("a", 0.016))
    )
    drawn = draw(Chart("texts", "by text", "nat", "dots", (Series("1.1.0", marks),))).svg("one")
    assert 3 <= len(re.findall(r">0\.\d+</text>", drawn)) <= 5


def _position(first: int, last: int) -> PositionDivergence:
    return PositionDivergence(
        first=first, last=last, tokens=9, kl_mean=0.02, kl_standard_error=0.001, same_top_share=0.9
    )
