"""What changes for an app: the context window; and what of it the checkpoint sees."""

from __future__ import annotations

from dataclasses import replace

from builders.report.change import Change
from builders.report.changes import app_changes
from builders.report.content import CellContent, Content, Subject
from builders.report.findings import findings
from builders.report.page import html
from builders.report.reach import reach_in_words, reach_unknown
from registry.diff.layers import LayerChanges
from targets.evidence_details import Reach
from tests.support.parsed_html import parsed
from tests.support.report_samples import OLD_CHECKPOINT


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


def test_other_factors_of_longrope_are_another_rope(other_checkpoint: CellContent) -> None:
    old, new = (Reach(context_length=4096, sliding_window=None, rope=f"{LONGROPE}, factors {one}") for one in "ab")
    change = _rope(_with_reaches(other_checkpoint, old, new))
    assert (change.before, change.after) == (old.rope, new.rope)


def test_factors_that_older_evidence_does_not_have_are_no_change(other_checkpoint: CellContent) -> None:
    old, new = (
        Reach(context_length=4096, sliding_window=None, rope=rope) for rope in (LONGROPE, f"{LONGROPE}, factors a")
    )
    for pair in ((old, new), (new, old)):
        change = _rope(_with_reaches(other_checkpoint, *pair))
        assert change.before == change.after == f"{LONGROPE} (factors not recorded on both sides)"
    plain = Reach(context_length=4096, sliding_window=None, rope="plain, base 10,000")
    assert _rope(_with_reaches(other_checkpoint, plain, new)).after == LONGROPE


def test_a_configuration_that_no_row_shows_is_said_to_be_another_one(other_checkpoint: CellContent) -> None:
    """Such as another epsilon of the norms: in GGUF it is in the file of the weights, which are the same."""
    assert other_checkpoint.baseline is not None
    reach = Reach(context_length=4096, sliding_window=None, rope=LONGROPE)
    same = other_checkpoint.candidate.manifest
    files = [one.model_copy(update={"sha256": "f" * 64}) if one.path == "model.gguf" else one for one in same.files]
    old = same.model_copy(update={"checkpoint": OLD_CHECKPOINT, "files": files})
    found = _with_reaches(other_checkpoint, reach, reach)
    assert found.baseline is not None
    found = replace(found, baseline=replace(found.baseline, manifest=old), layers=LayerChanges((0,), ()))
    said = "So its configuration is another one, in what no row of this page shows."
    assert [said in one.text for one in findings(found) if one.text.startswith("The checkpoint is another")] == [True]
    window = replace(found, candidate=_with_reach(found.candidate, reach.model_copy(update={"sliding_window": 9})))
    assert not [one for one in findings(window) if said in one.text]
    assert not [one for one in findings(replace(found, layers=LayerChanges((), (0,)))) if said in one.text]


LONGROPE = "longrope past 4,096 tokens, base 10,000"


def _rope(cell: CellContent) -> Change:
    return next(one for one in app_changes(cell) if one.what == "rope")


def _with_reaches(cell: CellContent, old: Reach, new: Reach) -> CellContent:
    return replace(cell, baseline=_with_reach(cell.baseline, old), candidate=_with_reach(cell.candidate, new))


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
