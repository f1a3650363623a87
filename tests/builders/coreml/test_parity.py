"""The packaged programs, evaluated, against transformers in float32: shapes, window, both sides of longrope's edge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders.build import build
from builders.checkpoint import open_checkpoint
from builders.runtime.coreml.calls import call_inputs
from builders.runtime.coreml.session import open_session
from targets.errors import BundleError, CheckpointError, MeasurementError
from targets.recipes import recipe_named
from tests.support.cases import cases
from tests.support.checkpoints import random_weights, write_tiny, write_weights
from tests.support.parity import CASES, EDGE, FURTHER, LIKE_PHI_4_MINI, some_tokens, tiny_bundle
from tests.support.transformers_models import transformers_logits

# Matrices are stored exactly; rotation, attention, cache and products are rounded to float16.
TOLERANCE = 0.03


@pytest.mark.parametrize(("length", "changes"), cases(CASES, FURTHER))
def test_fp16_agrees_with_transformers(tmp_path: Path, length: int, changes: dict[str, Any]) -> None:
    checkpoint, bundle = tiny_bundle(tmp_path, "coreml-fp16", **changes)
    tokens = some_tokens(length)
    reference = transformers_logits(checkpoint, tokens)
    with open_session(bundle) as session:
        logits = session.score(tokens)
        assert logits.shape == reference.shape
        assert logits.dtype == np.float32
        assert np.abs(logits - reference).max() < TOLERANCE
        assert np.array_equal(session.prefill(tokens), logits[-1])


@pytest.mark.parametrize("recipe", ["coreml-fp16", "coreml-int4", "coreml-palettized4"])
@pytest.mark.parametrize(
    "changes", cases({"plain": {}, "window": {"window": 8}, "Phi-4-mini": LIKE_PHI_4_MINI}, ["plain"])
)
def test_steps_give_what_prefill_gives(tmp_path: Path, recipe: str, changes: dict[str, Any]) -> None:
    _, bundle = tiny_bundle(tmp_path, recipe, **changes)
    tokens = some_tokens(40)
    with open_session(bundle) as session:
        whole = session.score(tokens)
        stepped = [session.prefill(tokens[:5]), *(session.step(int(token)) for token in tokens[5:])]
        assert np.abs(np.stack(stepped) - whole[4:]).max() < TOLERANCE
        assert np.array_equal(session.score(tokens), whole)  # nothing of before is left in the state


def test_a_sequence_that_grows_past_longropes_edge_answers_like_the_reference(tmp_path: Path) -> None:
    checkpoint, bundle = tiny_bundle(tmp_path, "coreml-fp16", original_context=EDGE)
    tokens = some_tokens(EDGE + 6)
    with open_session(bundle) as session:
        session.prefill(tokens[: EDGE - 2])
        for count in range(EDGE - 1, len(tokens) + 1):
            logits = session.step(int(tokens[count - 1]))
            expected = transformers_logits(checkpoint, tokens[:count])[-1]
            assert np.abs(logits - expected).max() < TOLERANCE, f"{count} tokens"


def test_a_full_context_is_refused(tmp_path: Path) -> None:
    checkpoint = write_tiny(tmp_path / "checkpoint")
    opened = open_checkpoint(checkpoint)
    bundle = build(opened, recipe_named("coreml-fp16"), tmp_path / "bundle", context_length=16)
    with open_session(bundle) as session:
        session.prefill(some_tokens(16))
        with pytest.raises(MeasurementError, match="16"):
            session.step(1)


def test_the_masks_width_says_where_tokens_stand() -> None:
    inputs = call_inputs(np.array([5, 6]), cached=3)
    assert {name: (value.shape, value.dtype) for name, value in inputs.items()} == {
        "inputIds": ((1, 2), np.dtype(np.int32)),
        "causalMask": ((1, 1, 1, 5), np.dtype(np.float16)),
    }


@pytest.mark.parametrize("recipe", ["coreml-fp16", "coreml-int4", "coreml-palettized4"])
def test_a_broken_weight_leaves_nothing(tmp_path: Path, recipe: str) -> None:
    checkpoint = write_tiny(tmp_path / "checkpoint")
    weights = random_weights({**open_checkpoint(checkpoint).config})
    weights["model.layers.1.mlp.down_proj.weight"][3, 4] = np.nan
    write_weights(checkpoint, weights)
    with pytest.raises(CheckpointError, match=r"model\.layers\.1\.mlp\.down_proj\.weight"):
        build(open_checkpoint(checkpoint), recipe_named(recipe), tmp_path / "bundle")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


@pytest.mark.parametrize("recipe", ["coreml-fp16", "coreml-int4", "coreml-palettized4"])
def test_a_weights_file_that_was_cut_is_refused(tmp_path: Path, recipe: str) -> None:
    """Wherever it was cut: also in the description of a blob, or right before it."""
    _, bundle = tiny_bundle(tmp_path, recipe)
    weights = next((bundle.path / "model.mlpackage").rglob("weight.bin"))
    content = weights.read_bytes()
    marks = [at for at in range(64, len(content), 64) if content[at : at + 4] == b"\xef\xbe\xad\xde"]
    for size in (marks[-1], marks[-1] + 10, marks[-2], marks[-2] + 64, marks[len(marks) // 2]):
        weights.write_bytes(content[:size])
        with pytest.raises(MeasurementError, match=r"weight\.bin|index out of bounds"), open_session(bundle) as session:
            session.score(some_tokens(5))
    weights.unlink()
    with pytest.raises(MeasurementError, match=r"weight\.bin"), open_session(bundle) as session:
        session.score(some_tokens(5))


def test_a_damaged_package_is_refused(tmp_path: Path) -> None:
    _, bundle = tiny_bundle(tmp_path, "coreml-fp16")
    model = next((bundle.path / "model.mlpackage").rglob("model.mlmodel"))
    model.write_bytes(model.read_bytes()[: model.stat().st_size // 2])
    with pytest.raises((MeasurementError, BundleError)):
        open_session(bundle)
