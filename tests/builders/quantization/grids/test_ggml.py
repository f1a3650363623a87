"""ggml's blocks as grids: the nearest values of a block whose scales ggml has chosen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from builders.quantization.ggml_library import encode
from builders.quantization.grids.ggml import FittedBlocks, GgmlGrid, decode
from builders.quantization.grids.ggml_blocks import CODECS
from builders.quantization.kernels.sweep import pass_errors_on
from targets.errors import CheckpointError
from targets.storage.gguf import TYPES
from tests.support import llama_cpp as llamacpp

Floats = NDArray[np.float32]
KINDS = list(CODECS)


def rounded(block: FittedBlocks, weights: Floats) -> tuple[NDArray[np.uint8], Floats]:
    """Round weights [rows, columns] with nothing to pass on from column to column."""
    own = np.ascontiguousarray(weights.T)
    codes, values = np.empty(own.shape, np.uint8), np.empty_like(own)
    pass_errors_on(own, np.eye(len(own), dtype=np.float32), block.levels.parts, 0, codes, values)
    return codes.T, values.T


def choices(block: FittedBlocks) -> Floats:
    """Every value that each element may take, decoded by ggml: [codes, rows, columns]."""
    codec = block.codec
    shape = len(block.blocks), codec.kind.length
    every = range(codec.lowest, len(codec.levels))
    filled = [codec.with_codes(block.blocks, np.full(shape, code, dtype=np.uint8)) for code in every]
    return np.stack([llamacpp.dequantize(blocks, codec.kind.name).reshape(shape) for blocks in filled])


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=8, deadline=None)
@given(st.data())
def test_nothing_that_the_block_can_hold_is_nearer(kind: str, data: st.DataObject) -> None:
    grid = GgmlGrid(kind, "it")
    weights = data.draw(arrays(np.float32, (3, grid.columns), elements=st.floats(-50, 50, width=32)))
    block = grid.fit(weights, np.ones(grid.columns, dtype=np.float32))
    moved = weights + np.float32(0.3)  # what is rounded is not what the scales were fitted to
    _, values = rounded(block, moved)
    least = np.abs(choices(block) - moved).min(axis=0)
    assert (np.abs(values - moved) <= least * (1 + 1e-5) + 1e-6).all()


@pytest.mark.parametrize("kind", KINDS)
def test_packed_codes_are_the_values_that_nearest_returned(kind: str) -> None:
    grid, generator = GgmlGrid(kind, "it"), np.random.default_rng(0)
    weights = generator.normal(size=(5, 2 * grid.columns)).astype(np.float32)
    halves = np.split(weights, 2, axis=1)
    blocks = [grid.fit(half, np.ones(grid.columns, dtype=np.float32)) for half in halves]
    parts = [rounded(block, half) for block, half in zip(blocks, halves, strict=True)]
    (packed,) = grid.pack(blocks, np.concatenate([codes for codes, _ in parts], axis=1))
    values = np.concatenate([found for _, found in parts], axis=1)
    assert packed.shape == (5, 2 * TYPES[kind].bytes)
    np.testing.assert_array_equal(llamacpp.dequantize(packed, kind).reshape(values.shape), values)
    np.testing.assert_array_equal(decode(packed, kind, values.shape[1]), values)
    # ggml's own codes on the same scales are no nearer.
    theirs = np.concatenate([llamacpp.dequantize(one.blocks, kind).reshape(5, -1) for one in blocks], axis=1)
    assert (np.abs(values - weights) <= np.abs(theirs - weights) + 1e-6).all()


@pytest.mark.parametrize("kind", ["Q4_0", "IQ4_NL", "Q4_K"])
def test_scales_follow_the_importance(kind: str) -> None:
    grid, generator = GgmlGrid(kind, "it"), np.random.default_rng(0)
    weights = generator.normal(size=(200, grid.columns)).astype(np.float32)
    importance = np.where(np.arange(grid.columns) % 8 == 0, 100, 0.1).astype(np.float32)
    errors = [
        float((np.square(rounded(grid.fit(weights, given), weights)[1] - weights) * importance).sum())
        for given in (np.ones_like(importance), importance)
    ]
    assert errors[1] < 0.8 * errors[0]


def test_a_block_of_zeros_stays_zero() -> None:
    for kind in KINDS:
        grid = GgmlGrid(kind, "it")
        block = grid.fit(np.zeros((2, grid.columns), dtype=np.float32), np.ones(grid.columns, dtype=np.float32))
        codes, values = rounded(block, np.repeat(np.array([[1], [-1]], dtype=np.float32), grid.columns, axis=1))
        assert not values.any()
        assert not decode(block.codec.with_codes(block.blocks, codes), kind, grid.columns).any()


def test_rows_are_encoded_in_slices_as_at_once() -> None:
    weights = np.random.default_rng(0).normal(size=(150, 64)).astype(np.float32)
    parts = [encode(part, TYPES["Q5_0"], name="it") for part in np.split(weights, [1, 70])]
    np.testing.assert_array_equal(np.concatenate(parts), encode(weights, TYPES["Q5_0"], name="it"))


def test_a_weight_that_no_block_can_hold_names_the_tensor() -> None:
    weights = np.full((1, 32), 1e6, dtype=np.float32)
    with pytest.raises(CheckpointError, match="tensor 'down' holds a value of magnitude 1e"):
        GgmlGrid("Q4_0", "down").fit(weights, np.ones(32, dtype=np.float32))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("calibrated", [False, True])
def test_the_largest_weights_that_are_taken_are_stored_as_numbers(kind: str, *, calibrated: bool) -> None:
    """Scales and Q5_1's minimum are float16: infinite ones would be a bundle that answers NaN."""
    length, rng = TYPES[kind].length, np.random.default_rng(0)
    weights = rng.standard_t(3, (64, length)).astype(np.float32)
    weights[::2] = -np.abs(weights[::2])
    importance = np.exp(rng.normal(0, 2, length)).astype(np.float32) if calibrated else None
    for largest in (32700, 1e5, 262000, 470000, 520000):
        scaled = weights * (np.float32(largest) / np.abs(weights).max(1, keepdims=True))
        try:
            raw = encode(scaled, TYPES[kind], name="it", importance=importance)
        except CheckpointError:
            assert largest > {"Q4_0": 262016, "Q5_1": 32752}.get(kind, 524032)
        else:
            assert np.isfinite(decode(raw, kind, length)).all(), largest
