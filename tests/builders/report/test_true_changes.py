"""What is called a change is one, and what changed is not called the same: pairs that differ in one thing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from builders.report.at_a_glance import at_a_glance
from builders.report.change import Change
from builders.report.changes import app_changes, origin_changes
from builders.report.content import CellContent
from builders.report.findings import findings
from registry.bundle.manifest import CalibrationEntry
from targets.runtimes.requirement import Requires, RuntimeNeed


@pytest.fixture
def same(cell: CellContent) -> CellContent:
    """A cell that is exactly what production has."""
    assert cell.baseline is not None
    return CellContent(cell.candidate, replace(cell.baseline, manifest=cell.candidate.manifest))


def test_another_bos_is_no_other_stop_id(same: CellContent) -> None:
    generation = same.candidate.manifest.generation.model_copy(update={"stop_token_ids": [0, 1], "bos_token_id": 0})
    other = generation.model_copy(update={"bos_token_id": 1})
    found = _with(same, {"generation": other}, {"generation": generation})
    assert _changed(found) == ["BOS id"]
    assert _change(found, "stop ids").before == _change(found, "stop ids").after == "0, 1 (also BOS)"


def test_a_tokens_text_that_only_one_side_can_read_is_no_change(same: CellContent) -> None:
    texts = {number: f"<{number}>" for number in same.candidate.manifest.generation.stop_token_ids}
    assert _changed(replace(same, candidate=replace(same.candidate, tokens=texts))) == []


@pytest.mark.parametrize(("before", "after", "must_follow"), [("b3000", "b2000", False), ("b2000", "b3000", True)])
def test_an_app_need_not_follow_where_its_runtime_is_enough(
    same: CellContent, before: str, after: str, *, must_follow: bool
) -> None:
    old, new = (
        Requires(features=(), runtimes=(RuntimeNeed(runtime="llama.cpp", minimum=one),)) for one in (before, after)
    )
    found = _with(same, {"requires": new}, {"requires": old})
    change = _change(found, "minimum runtime")
    assert (change.changed, change.must_follow) == (True, must_follow)
    assert any("minimum runtime" in one.text for one in findings(found)) == must_follow


def test_the_same_files_for_another_context_are_not_called_identical(same: CellContent) -> None:
    model = same.candidate.manifest.model.model_copy(update={"context_length": 2048})
    name = "1.0.0"
    assert at_a_glance(same) == f"identical to {name}'s, byte for byte"
    said = f"every file is {name}'s, byte for byte; what changes: context window"
    assert at_a_glance(_with(same, {"model": model})) == said


def test_another_calibration_text_is_named_as_what_changed(same: CellContent) -> None:
    recipe = same.candidate.manifest.recipe
    old, new = (
        recipe.model_copy(
            update={"calibration": CalibrationEntry(level="light", text=f"sha256:{one * 64}", tokens=2048)}
        )
        for one in "ab"
    )
    files = [
        one.model_copy(update={"sha256": "f" * 64}) if one.path == "model.gguf" else one
        for one in same.candidate.manifest.files
    ]
    found = _with(same, {"recipe": new, "files": files}, {"recipe": old})
    (change,) = (one for one in origin_changes(found) if one.what == "calibration text")
    assert (change.before, change.after) == ("a" * 12 + ", 2,048 tokens", "b" * 12 + ", 2,048 tokens")
    assert at_a_glance(found) == "the same recipe, checkpoint and tools, another calibration text: model.gguf differs"


def _with(cell: CellContent, after: dict[str, Any], before: dict[str, Any] | None = None) -> CellContent:
    assert cell.baseline is not None
    old, new = (
        replace(side, manifest=side.manifest.model_copy(update=changes or {}))
        for side, changes in ((cell.baseline, before), (cell.candidate, after))
    )
    return replace(cell, baseline=old, candidate=new)


def _change(cell: CellContent, what: str) -> Change:
    return next(one for one in app_changes(cell) if one.what == what)


def _changed(cell: CellContent) -> list[str]:
    return [one.what for one in app_changes(cell) if one.changed and one.what != "download"]
