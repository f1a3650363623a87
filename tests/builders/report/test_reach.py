"""What changes for an app: the context window; and what of it the checkpoint sees."""

from __future__ import annotations

from dataclasses import replace

from builders.report.changes import app_changes
from builders.report.content import CellContent, Content, Subject
from builders.report.findings import findings
from builders.report.page import html
from builders.report.reach import reach_in_words, reach_unknown
from targets.evidence_details import Reach
from tests.support.parsed_html import parsed


def test_a_smaller_context_window_must_be_followed_and_a_larger_one_need_not(cell: CellContent) -> None:
    less, more = (_with_context(cell, length) for length in (2048, 8192))
    for other, must_follow, said in ((less, True, "less room"), (more, False, "more room"), (cell, False, "")):
        (row,) = [one for one in app_changes(other) if one.what == "context window, tokens"]
        assert (row.changed, row.must_follow) == (other is not cell, must_follow)
        assert said in row.meaning
        found = [one.text for one in findings(other) if "context window" in one.text]
        assert bool(found) is must_follow
    assert "For the app: context window, tokens: 4,096 becomes 2,048: prompt and answer together have less room." in [
        one.text for one in findings(less)
    ]


def test_window_and_rope_have_rows_where_they_differ(cell: CellContent, other_checkpoint: CellContent) -> None:
    rows = {one.what: one for one in app_changes(other_checkpoint)}
    window = rows["sliding window, tokens"]
    assert (window.before, window.after) == ("2,047", "448")
    assert window.meaning == "the checkpoint no longer sees what is 448 tokens back or more"  # llama.cpp still does
    assert (rows["rope"].before, rows["rope"].after) == (
        "plain, base 10,000",
        "longrope past 4,096 tokens, base 10,000",
    )
    assert rows["checkpoint's longest context, tokens"].after == "131,072"
    same = {one.what: one for one in app_changes(cell)}
    assert "checkpoint's longest context, tokens" not in same  # the bundle's own
    assert not same["sliding window, tokens"].changed
    assert reach_in_words(cell) == ""
    assert any("sliding window, tokens: 2,047 becomes 448" in one.text for one in findings(other_checkpoint))


def test_what_older_evidence_does_not_have_is_said_and_is_no_change(other_checkpoint: CellContent) -> None:
    old = replace(other_checkpoint, baseline=_with_reach(other_checkpoint.baseline, None))
    assert not {one.what for one in app_changes(old)} & {"sliding window, tokens", "rope"}
    assert reach_unknown(old).startswith("The sliding window and the rope of phi:1.0.0@iphone-15 are not recorded")
    assert reach_unknown(old) in parsed(html(Content("phi:1.1.0", (old,), against="phi:production"))).text
    assert reach_unknown(other_checkpoint) == ""


def test_the_same_weights_with_another_window_name_it(other_checkpoint: CellContent) -> None:
    """Where every weight is the same, the configuration alone is another one."""
    baseline = other_checkpoint.baseline
    assert baseline is not None
    (weights,) = [one for one in baseline.manifest.files if one.path == "model.gguf"]
    weights = weights.model_copy(update={"path": "model.onnx.data"})
    graphs = [weights.model_copy(update={"path": "model.onnx", "sha256": digit * 64}) for digit in "ab"]
    old, new = (
        replace(side, manifest=side.manifest.model_copy(update={"files": [weights, graph]}))
        for side, graph in zip((baseline, other_checkpoint.candidate), graphs, strict=True)
    )
    found = [one.text for one in findings(replace(other_checkpoint, candidate=new, baseline=old))]
    assert any("every file with weights is the same" in one and "2,047 becomes 448" in one for one in found)


def _with_context(cell: CellContent, length: int) -> CellContent:
    manifest = cell.candidate.manifest
    model = manifest.model.model_copy(update={"context_length": length})
    return replace(cell, candidate=replace(cell.candidate, manifest=manifest.model_copy(update={"model": model})))


def _with_reach(side: Subject | None, reach: Reach | None) -> Subject:
    assert side is not None
    assert side.evidence is not None
    assert side.evidence.details is not None
    found = side.evidence.details.model_copy(update={"reach": reach})
    return replace(side, evidence=side.evidence.model_copy(update={"details": found}))
