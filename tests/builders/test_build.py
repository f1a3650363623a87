"""What a build reports while it works."""

from __future__ import annotations

from pathlib import Path

import pytest

from builders.build import build
from builders.checkpoint import Checkpoint, open_checkpoint
from targets.progress import Event, Phase, Step
from targets.recipes import RECIPES, recipe_named
from tests.support.checkpoints import write_tiny


@pytest.mark.parametrize("recipe", RECIPES)
def test_it_reports_bytes_written_of_the_recipe_and_then_hashes(tiny: Checkpoint, tmp_path: Path, recipe: str) -> None:
    events: list[Event] = []
    bundle = build(tiny, recipe_named(recipe), tmp_path / "bundle", on_progress=events.append)
    steps = [event for event in events if isinstance(event, Step)]
    assert len(steps) == len([event for event in events if not isinstance(event, Phase)])
    assert {step.subject for step in steps} == {recipe}
    written = [step for step in steps if step.name == "write"]
    assert len(written) > len(tiny.stored_tensors)
    assert [step.done for step in written] == sorted(step.done for step in written)
    assert (written[0].done, written[-1].done, written[0].unit) == (0, written[0].total, "bytes")
    assert len({step.total for step in written}) == 1
    # Tables, padding and what holds the weights come on top: a small part, but for so small a model.
    weights = sum(weight.bytes for weight in bundle.manifest.recipe.weights)
    assert weights <= written[0].total <= bundle.manifest.total_bytes
    assert steps[len(written) :] == [Step("hash", done, 1, subject=recipe) for done in (0, 1)]


@pytest.mark.parametrize("recipe", ["onnx-fp16", "coreml-fp16"])
def test_how_a_window_is_counted_is_said_where_it_has_an_effect(tmp_path: Path, recipe: str) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path / "checkpoint", window=100))
    note = "a token sees 100 keys, itself included, as in transformers; the code of Phi-3's release counts the window"
    for context, said in ((200, True), (100, False)):
        bundle = build(checkpoint, recipe_named(recipe), tmp_path / f"{context}", context_length=context)
        assert any(each.startswith(note) for each in bundle.manifest.recipe.notes) is said
