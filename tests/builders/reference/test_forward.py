"""The streamed float32 forward pass against transformers' own Phi3ForCausalLM and LlamaForCausalLM."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from builders.checkpoint import Checkpoint, open_checkpoint
from builders.checkpoint.sources import ShardSource
from builders.reference import FloatReference
from builders.reference.forward import rotary_tables
from targets.errors import CheckpointError
from tests.support.checkpoints import VOCABULARY_SIZE, Tiny, random_weights, write_tiny, write_weights
from tests.support.transformers_models import transformers_logits, transformers_model

TOLERANCE = 1e-4


def tokens_of(rows: int, length: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, VOCABULARY_SIZE, size=(rows, length))


def our_logits(folder: Path, tokens: np.ndarray) -> np.ndarray:
    reference = FloatReference(open_checkpoint(folder))
    return np.stack([reference.logits(states) for states in reference.hidden(tokens)])


@pytest.mark.parametrize(
    ("shape", "length"),
    [
        pytest.param(Tiny(kv_heads=4), 40, id="plain"),
        pytest.param(Tiny(kv_heads=2), 40, id="grouped-queries"),
        pytest.param(Tiny(kv_heads=1, heads=8), 40, id="one-kv-head"),
        pytest.param(Tiny(tied=True), 40, id="tied-head"),
        pytest.param(Tiny(window=7), 40, id="sliding-window"),
        pytest.param(Tiny(window=40), 40, id="window-as-long-as-the-text"),
        pytest.param(Tiny(original_context=32), 31, id="longrope-short-side"),
        pytest.param(Tiny(original_context=32), 32, id="longrope-at-the-edge"),
        pytest.param(Tiny(original_context=32), 33, id="longrope-past-the-edge"),
        pytest.param(Tiny(original_context=32, window=12, kv_heads=1, tied=True), 80, id="all-at-once"),
        pytest.param(Tiny(rotated=0.5), 40, id="half-rotated"),
        pytest.param(
            Tiny(hidden=384, heads=6, rotated=0.75, tied=True, original_context=32), 32, id="phi-4-mini-short"
        ),
        pytest.param(Tiny(hidden=384, heads=6, rotated=0.75, tied=True, original_context=32), 33, id="phi-4-mini-long"),
        pytest.param(Tiny(), 1, id="one-token"),
        pytest.param(Tiny(family="llama"), 40, id="llama-grouped-queries"),
        pytest.param(Tiny(family="llama", kv_heads=4, tied=True), 40, id="llama-tied"),
    ],
)
def test_it_agrees_with_transformers(tmp_path: Path, shape: Tiny, length: int) -> None:
    folder = write_tiny(tmp_path / "c", shape)
    tokens = tokens_of(3, length)
    expected = transformers_logits(folder, tokens)
    found = our_logits(folder, tokens)
    assert expected.std() > 0.1  # the model says something
    np.testing.assert_allclose(found, expected, atol=TOLERANCE, rtol=0)


def test_the_window_is_felt(tmp_path: Path) -> None:
    """What the tolerance must tell apart: with the window one token wider, logits differ by far more."""
    tokens = tokens_of(1, 40)
    seven = our_logits(write_tiny(tmp_path / "7", window=7), tokens)
    eight = our_logits(write_tiny(tmp_path / "8", window=8), tokens)
    assert np.abs(seven[:, :7] - eight[:, :7]).max() < TOLERANCE
    assert np.abs(seven[:, 7:] - eight[:, 7:]).max() > 100 * TOLERANCE


def test_the_rotated_share_of_a_head_is_felt(tmp_path: Path) -> None:
    tokens = tokens_of(1, 40)
    whole, half = (our_logits(write_tiny(tmp_path / str(share), rotated=share), tokens) for share in (1.0, 0.5))
    assert np.abs(whole - half).max() > 100 * TOLERANCE


def test_the_longrope_edge_is_felt(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "c", original_context=32)
    tokens = tokens_of(1, 33)
    short, long = our_logits(folder, tokens[:, :32]), our_logits(folder, tokens)[:, :32]
    assert np.abs(short - long).max() > 100 * TOLERANCE


def test_a_sequence_does_not_see_its_neighbours(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "c")
    tokens = tokens_of(3, 20)
    together = our_logits(folder, tokens)
    alone = np.concatenate([our_logits(folder, row[None]) for row in tokens])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_rotary_tables_of_longrope(tmp_path: Path) -> None:
    architecture = open_checkpoint(write_tiny(tmp_path / "c", original_context=64, context=512)).architecture
    cosines, _ = rotary_tables(architecture, 64)
    factor = math.sqrt(1 + math.log(512 / 64) / math.log(64))
    np.testing.assert_allclose(cosines[0], factor, rtol=1e-6)
    assert architecture.longrope is not None
    assert architecture.longrope.long_attention_factor == pytest.approx(factor)


def test_greedy_continuations_are_those_of_transformers(tmp_path: Path) -> None:
    import torch

    folder = write_tiny(tmp_path / "c")
    prompts = tokens_of(3, 9)
    found = FloatReference(open_checkpoint(folder)).greedy(prompts, 6)
    model = transformers_model(folder)
    expected = prompts
    with torch.inference_mode():
        for _ in range(6):
            following = model(torch.from_numpy(expected), use_cache=False).logits[:, -1].argmax(-1).numpy()
            expected = np.concatenate([expected, following[:, None]], axis=1)
    np.testing.assert_array_equal(found, expected[:, 9:])


def test_a_broken_weight_is_named(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "c")
    weights = random_weights(Tiny().config())
    weights["model.layers.1.mlp.down_proj.weight"][0, 0] = np.nan
    write_weights(folder, weights)
    with pytest.raises(CheckpointError, match=r"model\.layers\.1\.mlp\.down_proj\.weight"):
        our_logits(folder, tokens_of(1, 4))


def test_one_layer_is_held_at_a_time(tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each tensor is read once, in the order of the layers: a walk, not a load."""
    read: list[str] = []
    original = ShardSource.tensor

    def noted(self: ShardSource, name: str) -> np.ndarray:
        read.append(name)
        return original(self, name)

    monkeypatch.setattr(ShardSource, "tensor", noted)
    FloatReference(tiny).hidden(tokens_of(2, 5))
    walked = [name for name in tiny.architecture.tensor_shapes() if name.startswith(("model.layers", "model.norm"))]
    assert read == walked
