"""Evidence past edges: what the runtime computes exactly, longrope's edge, and what a suite reads there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from builders.build import build
from builders.checkpoint import open_checkpoint
from builders.validation.validate import validate
from targets.evaluation import Suite
from targets.evidence import ACCURACY_FIGURES
from targets.progress import Event, Step
from targets.recipes import recipe_named
from tests.support.checkpoints import write_tiny
from tests.support.validations import BRIEF


@pytest.mark.usefixtures("in_this_process")
def test_what_lies_past_the_window_is_in_the_evidence_and_in_no_gated_figure(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path / "c", window=96, context=512, dtype="F16"))
    bundle = build(checkpoint, recipe_named("gguf-f16"), tmp_path / "bundle")
    events: list[Event] = []
    figures = validate(bundle, checkpoint, BRIEF, on_progress=events.append).figures
    steps = [event for event in events if isinstance(event, Step) and event.name in ("reference", "compare")]
    end = steps.index(Step("compare", 416, 416, "tokens", "gguf-f16"))  # else the time after the walk has no name
    assert steps[end + 1 :] == [Step("reference", done, 3, "prompts", "gguf-f16") for done in (0, 3)]
    assert steps[steps.index(Step("compare", 0, 416, "tokens", "gguf-f16")) - 1].name == "reference"
    assert figures["kl_mean"].value < 1e-4
    assert figures["past_exact_kl_mean"].value > 10 * figures["kl_mean"].value
    assert figures["past_exact_same_top_share"].value < 1
    assert figures["past_exact_kl_mean"].on.startswith("tokens 97 to 512 of one sequence of the built-in text")
    assert not any(name.startswith("past_exact") for name in ACCURACY_FIGURES)


@pytest.mark.usefixtures("in_this_process")
def test_the_reference_walks_while_no_bundle_is_in_memory(tmp_path: Path) -> None:
    """Medium's onnxruntime and a walk together were killed on 16 GiB."""
    checkpoint = open_checkpoint(write_tiny(tmp_path / "c", window=96, context=512, dtype="F16"))
    bundle = build(checkpoint, recipe_named("gguf-f16"), tmp_path / "bundle")
    events: list[Event] = []
    figures = validate(bundle, checkpoint, BRIEF, cache=tmp_path / "cache", on_progress=events.append).figures
    assert {"past_exact_kl_mean", "greedy_match_share"} <= set(figures)
    names = [event.name for event in events if isinstance(event, Step)]
    last = max(place for place, name in enumerate(names) if name in ("compare", "generate"))
    assert "reference" in names[: names.index("open")]
    assert "reference" not in names[names.index("open") : last]
    assert "reference" in names[last:]


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize(
    ("suite", "context", "is_read"), [("quick", 512, True), ("quick", 513, False), ("accuracy", 513, True)]
)
def test_quick_reads_no_long_sequence_past_an_edge(
    tmp_path: Path, suite: Suite, context: int, *, is_read: bool
) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path / "c", window=96, context=context, dtype="F16"))
    bundle = build(checkpoint, recipe_named("gguf-f16"), tmp_path / "bundle")
    figures = validate(bundle, checkpoint, replace(BRIEF, suite=suite)).figures
    assert ("past_exact_kl_mean" in figures) == is_read


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("context", [96, 97])
def test_a_context_within_the_window_has_nothing_past_it(tmp_path: Path, context: int) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path / "c", window=96, context=512, dtype="F16"))
    bundle = build(checkpoint, recipe_named("gguf-f16"), tmp_path / "bundle", context_length=context)
    assert not any(name.startswith("past_exact") for name in validate(bundle, checkpoint, BRIEF).figures)


@pytest.mark.usefixtures("in_this_process")
def test_a_text_too_short_for_it_gives_way_to_the_built_in_one(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path / "c", window=96, context=512, dtype="F16"))
    bundle = build(checkpoint, recipe_named("gguf-f16"), tmp_path / "bundle")
    (tmp_path / "short.txt").write_text("the town in the morning " * 14, "utf-8")
    figures = validate(bundle, checkpoint, replace(BRIEF, text=tmp_path / "short.txt", tokens=128)).figures
    assert "short.txt" in figures["kl_mean"].on
    assert "the built-in text" in figures["past_exact_kl_mean"].on


@pytest.mark.usefixtures("in_this_process")
def test_both_sides_of_longropes_edge_are_in_the_evidence_and_what_one_context_for_both_costs(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path / "c", original_context=256, context=2048, dtype="F16"))
    bundle = build(checkpoint, recipe_named("gguf-f16"), tmp_path / "bundle", context_length=1024)
    figures = validate(bundle, checkpoint, BRIEF).figures
    assert figures["kl_mean"].value < 1e-4
    assert figures["past_edge_kl_mean"].value < 1e-4
    assert figures["past_edge_kl_mean"].on.startswith("tokens 257 to 768 of one sequence of the built-in text")
    assert figures["under_edge_kl_mean"].value > 100 * figures["kl_mean"].value
    assert figures["under_edge_kl_mean"].on.startswith("256 tokens of the built-in text, opened for 1024 tokens")
    assert figures["under_edge_same_top_share"].value < figures["same_top_share"].value
    assert not any(name.startswith("past_exact") for name in figures)
    assert {name for name in ACCURACY_FIGURES if "edge" in name} <= set(figures)
    assert not any(name.startswith("under_edge") for name in ACCURACY_FIGURES)


@pytest.mark.usefixtures("in_this_process")
def test_a_gap_at_longropes_edge_is_read_where_it_is_not_exact(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path / "c", original_context=300, context=1024, dtype="F16"))
    bundle = build(checkpoint, recipe_named("gguf-f16"), tmp_path / "bundle", context_length=512)
    figures = validate(bundle, checkpoint, BRIEF).figures
    assert figures["past_exact_kl_mean"].on.startswith("tokens 257 to 300 of")
    assert figures["past_exact_kl_mean"].value > 100 * figures["past_edge_kl_mean"].value
    assert figures["past_edge_kl_mean"].on.startswith("tokens 301 to 512 of")


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("context", [200, 256])
def test_a_context_up_to_longropes_edge_has_one_side(tmp_path: Path, context: int) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path / "c", original_context=256, context=1024, dtype="F16"))
    bundle = build(checkpoint, recipe_named("gguf-f16"), tmp_path / "bundle", context_length=context)
    assert not any("edge" in name or "exact" in name for name in validate(bundle, checkpoint, BRIEF).figures)


@pytest.mark.usefixtures("in_this_process")
def test_an_edge_past_every_text_is_read_in_the_built_in_one_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path / "c", original_context=256, context=1024, dtype="F16"))
    bundle = build(checkpoint, recipe_named("gguf-f16"), tmp_path / "bundle", context_length=1024)
    (tmp_path / "short.txt").write_text("the town in the morning " * 14, "utf-8")
    monkeypatch.setattr("builders.validation.text.BUILT_IN", str(tmp_path / "short.txt"))
    figures = validate(bundle, checkpoint, replace(BRIEF, tokens=128)).figures
    name = "the built-in text (repeated)"
    assert figures["past_edge_kl_mean"].on.startswith(f"tokens 257 to 768 of one sequence of {name}")
    assert figures["past_edge_kl_mean"].value < 1e-4
