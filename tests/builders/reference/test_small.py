"""Phi-3-small's reference against a plain implementation that shares nothing with it (`plain_small.py`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders.checkpoint import open_checkpoint
from builders.reference import FloatReference
from tests.support.checkpoints import Tiny, random_weights, write_weights
from tests.support.plain_small import plain_logits
from tests.support.small import RELEASED_BLOCKS, write_telling

TOLERANCE = 1e-4


def small(folder: Path, config: dict[str, Any] | None = None, **changes: Any) -> Path:
    return write_telling(folder, config or {}, family="phi3small", dtype="F32", **changes)


def reference_logits(folder: Path, tokens: np.ndarray) -> np.ndarray:
    reference = FloatReference(open_checkpoint(folder))
    return reference.logits(reference.hidden(tokens[None])[0])


def some(count: int) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 300, count)


@pytest.mark.parametrize(
    ("length", "config", "changes"),
    [
        pytest.param(20, {}, {}, id="dense so far"),
        pytest.param(150, {}, {}, id="sparse"),
        pytest.param(150, {"dense_attention_every_n_layers": 3}, {"layers": 3}, id="every third layer is dense"),
        pytest.param(150, {"blocksparse_vert_stride": 2}, {"kv_heads": 4}, id="as many key heads"),
        pytest.param(1100, RELEASED_BLOCKS, {"context": 1200, "layers": 1}, id="blocks as released, past 1,024 tokens"),
        pytest.param(64, {}, {"original_context": 64}, id="up to longrope's edge"),
        pytest.param(65, {}, {"original_context": 64}, id="past longrope's edge"),
        pytest.param(40, {"gegelu_limit": 0.2}, {}, id="the gate's limits are met"),
    ],
)
def test_it_agrees_with_the_formulas(
    tmp_path: Path, length: int, config: dict[str, Any], changes: dict[str, Any]
) -> None:
    folder, tokens = small(tmp_path / "c", config, **changes), some(length)
    expected, found = plain_logits(folder, tokens), reference_logits(folder, tokens)
    assert np.isneginf(found[:, [300, 319]]).all()
    seen = np.isfinite(expected)
    assert np.array_equal(np.isfinite(found), seen)
    assert expected[seen].std() > 0.1  # the model says something
    np.testing.assert_allclose(found[seen], expected[seen], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(
    ("config", "start"),
    [
        ({"blocksparse_num_local_blocks": 3}, 32),  # dense up to 32 tokens with 2 local blocks
        ({"blocksparse_vert_stride": 5}, 32),
        ({"mup_attn_multiplier": 5.0}, 1),
        ({"gegelu_limit": 0.2}, 0),
        ({"dense_attention_every_n_layers": 0}, 32),
    ],
)
def test_what_the_tolerance_must_tell_apart(tmp_path: Path, config: dict[str, Any], start: int) -> None:
    tokens = some(120)
    one = reference_logits(small(tmp_path / "1"), tokens)
    other = reference_logits(small(tmp_path / "2", config), tokens)
    shown = np.isfinite(one[0])
    gaps = np.abs(one[:, shown] - other[:, shown]).max(-1)
    assert gaps[:start].max(initial=0.0) < TOLERANCE
    assert gaps[start:].max() > 30 * TOLERANCE


def test_an_overflow_is_not_clamped_into_an_answer(tmp_path: Path) -> None:
    folder = small(tmp_path / "c")
    weights = random_weights(Tiny(family="phi3small").config())
    row = weights["model.layers.0.mlp.up_proj.weight"][1]  # odd rows are clamped on both sides
    row[:], row[0] = 0, 3e38
    weights["model.layers.0.mlp.up_proj.bias"][1] = 3e38
    write_weights(folder, weights, dtype="F32")
    assert np.isnan(reference_logits(folder, some(40))).any()


def test_greedy_never_takes_a_hidden_id(tmp_path: Path) -> None:
    folder = small(tmp_path / "c", {"dummy_token_indices": list(range(318))})
    found = FloatReference(open_checkpoint(folder)).greedy(some(12).reshape(2, 6), 4)
    assert set(found.reshape(-1)) <= {318, 319}
