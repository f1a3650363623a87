"""What is called a change is one, and what changed is not called the same: pairs that differ in one thing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from builders.report.at_a_glance import at_a_glance
from builders.report.card import description, model_card
from builders.report.change import Change
from builders.report.changes import app_changes, origin_changes, own_checkpoint
from builders.report.content import CellContent, Recorded, named_apart, side_name
from builders.report.findings import findings
from builders.report.speeds import speed_rows
from builders.report.usual import usual
from registry.bundle.manifest import CalibrationEntry, FileEntry
from targets.evidence_details import SpeedRuns
from targets.references import Version
from targets.runtimes.requirement import Requires, RuntimeNeed
from tests.support.report_samples import OLD_CHECKPOINT


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


@pytest.mark.parametrize(
    ("model", "release", "names"),
    [
        ("phi", "1.0.0", ("1.0.0", "1.1.0")),
        ("phi", "1.1.0", ("phi:1.1.0@iphone-15", "phi:1.1.0@iphone-15")),  # another cell of the same release
        ("qwen", "1.0.0", ("qwen:1.0.0@iphone-15", "phi:1.1.0@iphone-15")),
    ],
)
def test_sides_of_one_version_or_of_two_models_have_whole_names(
    same: CellContent, model: str, release: str, names: tuple[str, str]
) -> None:
    found = named_apart(_of(same, model, release))
    assert found.baseline is not None
    assert (side_name(found.baseline), side_name(found.candidate)) == names
    assert at_a_glance(found) == f"identical to {names[0]}'s, byte for byte"


@pytest.mark.parametrize(
    ("model", "release", "passed", "counts"),
    [
        ("phi", "1.0.0", True, True),
        ("phi", "1.0.0", False, False),  # promoted in spite of its gates
        ("phi", "1.1.0", True, False),  # another cell of the same release
        ("qwen", "1.0.0", True, False),
    ],
)
def test_what_is_usual_is_of_other_sound_releases_of_the_model(
    same: CellContent, model: str, release: str, *, passed: bool, counts: bool
) -> None:
    found = replace(_of(same, model, release), earlier=())
    assert found.baseline is not None
    assert found.baseline.evidence is not None
    gates = [one.model_copy(update={"passed": passed}) for one in found.baseline.evidence.gates]
    evidence = found.baseline.evidence.model_copy(update={"gates": gates})
    said = usual(replace(found, baseline=replace(found.baseline, evidence=evidence)))
    assert said.startswith("Other releases" if counts else "No other release of this model")


def test_of_an_unreadable_baseline_phones_and_rope_are_known_from_its_evidence(other_checkpoint: CellContent) -> None:
    old = other_checkpoint.baseline
    assert old is not None
    assert old.evidence is not None
    assert old.version is not None
    evidence = old.evidence.model_copy(update={"target": "pixel-9"})
    recorded = Recorded(old.name, evidence, old.version, "gone")
    found = replace(other_checkpoint, baseline=None, difference=None, problem="gone", recorded=recorded)
    said = [one.text for one in findings(found) if one.severity == "look"]
    assert "For the app: phones: pixel-9 becomes iphone-15: gates and predictions are of another device." in said
    (reach,) = (one for one in said if one.startswith("Context, window or rope of the checkpoint are others"))
    assert "rope: plain, base 10,000 becomes longrope" in reach


def test_a_baseline_that_does_not_pass_is_said_not_to(same: CellContent) -> None:
    assert same.baseline is not None
    assert same.baseline.evidence is not None
    gates = [one.model_copy(update={"passed": one.figure != "kl_mean"}) for one in same.baseline.evidence.gates]
    evidence = same.baseline.evidence.model_copy(update={"gates": gates})
    found = replace(same, baseline=replace(same.baseline, evidence=evidence))
    (said,) = (one for one in findings(found) if "itself does not pass" in one.text)
    assert said.severity == "note"
    assert said.text.startswith("phi:1.0.0@iphone-15 itself does not pass: kl_mean is ")
    assert not [one for one in findings(same) if "itself does not pass" in one.text]


def test_a_tokenizer_that_was_saved_again_is_no_other_one(same: CellContent) -> None:
    old, new = (
        [*same.candidate.manifest.files, FileEntry(path="tokenizer.json", bytes=1, sha256=digit * 64)] for digit in "ab"
    )
    found = _with(same, {"files": new, "checkpoint": OLD_CHECKPOINT}, {"files": old})
    assert own_checkpoint(found).startswith("The tokenizer differs from 1.0.0's.")
    again = replace(found, same_tokenizer=True)
    assert own_checkpoint(again) == ""
    assert at_a_glance(again) == "weights the same, tokenizer.json differs, in its form alone"


@pytest.mark.parametrize(
    ("form", "must_follow", "meaning"),
    [("gguf", True, "the app sets this type where it opens the model"), ("onnx", False, "the graph has it")],
)
def test_who_decides_on_the_kv_caches_type(same: CellContent, form: str, *, must_follow: bool, meaning: str) -> None:
    old = same.candidate.manifest.recipe.model_copy(update={"format": form})
    new = old.model_copy(update={"kv_cache": "int8"})
    change = _change(_with(same, {"recipe": new}, {"recipe": old}), "KV cache")
    assert (change.must_follow, change.meaning) == (must_follow, meaning)


def test_runs_that_are_too_far_apart_are_not_called_unmeasured(cell: CellContent) -> None:
    evidence = cell.candidate.evidence
    assert evidence is not None
    assert evidence.details is not None
    name = "decode_tokens_per_second"
    figures = {one: value for one, value in evidence.figures.items() if one != name}
    runs = (SpeedRuns(figure=name, values=(4.0, 9.0), spread=0.7, other_load=1.3),)
    changed = {"figures": figures, "details": evidence.details.model_copy(update={"speed": runs})}
    for update, said in (
        (changed, "no figure: the runs are 70% apart"),
        ({"figures": figures, "details": None}, "not"),
    ):
        subject = replace(cell.candidate, evidence=evidence.model_copy(update=update))
        (row,) = (one for one in speed_rows(subject) if one.quantity == "generation")
        assert row.host.startswith(said)


def test_a_phone_that_this_phipack_does_not_know_is_named_by_the_card(same: CellContent) -> None:
    """The page names it, too."""
    evidence = same.candidate.evidence
    assert evidence is not None
    for named, said in (("fairphone", "for fairphone, which this phipack does not know."), (None, "no device class.")):
        other = evidence.model_copy(update={"target": named})
        found = replace(same, candidate=replace(same.candidate, target=None, evidence=other))
        assert said in description(found, "here")


def test_core_mls_card_says_nothing_of_bits(same: CellContent) -> None:
    recipe = same.candidate.manifest.recipe.model_copy(update={"name": "coreml-fp16", "format": "coreml"})
    card = model_card(_with(same, {"recipe": recipe}))
    assert "It needs iOS 18, as its KV cache is state." in card
    assert "4 bits" not in card


def _of(cell: CellContent, model: str, release: str) -> CellContent:
    """Return a cell whose baseline is of another model or release."""
    baseline = cell.baseline
    assert baseline is not None
    assert baseline.version is not None
    version = replace(baseline.version, model=model, release=Version.parse(release))
    return replace(cell, baseline=replace(baseline, name=f"{model}:{release}@{baseline.cell}", version=version))


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
