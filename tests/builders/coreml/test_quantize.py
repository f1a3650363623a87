"""uint4 blocks: never worse than the plain range, exact where they can be, independent of how rows are cut."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from builders.coreml.quantize import HIGHEST_CODE, quantize
from targets.storage.coreml import BLOCK_SIZE

matrices = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 5), st.integers(1, 3).map(lambda blocks: blocks * BLOCK_SIZE)),
    elements=st.floats(-100, 100, width=32),
)


def squared_error(weights: np.ndarray, stored: np.ndarray) -> np.ndarray:
    """Squared error of each block."""
    return np.square(weights - stored).reshape(len(weights), -1, BLOCK_SIZE).sum(-1)


def plain_range(weights: np.ndarray) -> np.ndarray:
    """What coremltools' linear mode does: codes from a block's least value, or 0, to its greatest, or 0."""
    blocks = weights.reshape(len(weights), -1, BLOCK_SIZE).astype(np.float64)
    least, greatest = np.minimum(blocks.min(-1), 0), np.maximum(blocks.max(-1), 0)
    scale = np.where(greatest > least, (greatest - least) / HIGHEST_CODE, 1)[..., None]
    offset = np.round(-least[..., None] / scale)
    codes = np.clip(np.round(blocks / scale) + offset, 0, HIGHEST_CODE)
    return ((codes - offset) * scale).reshape(weights.shape)


@settings(deadline=None)
@given(matrices)
def test_codes_and_offsets_stay_in_four_bits_and_scales_are_not_negative(weights: np.ndarray) -> None:
    quantized = quantize(weights)
    assert quantized.codes.shape == weights.shape
    assert quantized.codes.max() <= HIGHEST_CODE
    assert quantized.zeros.max() <= HIGHEST_CODE
    assert np.isfinite(quantized.scales).all()
    assert (quantized.scales >= 0).all()


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_error_is_not_above_the_plain_ranges(seed: int) -> None:
    weights = np.random.default_rng(seed).standard_normal((8, 4 * BLOCK_SIZE)).astype(np.float32)
    ours = squared_error(weights, quantize(weights).dequantized()).sum()
    assert ours <= squared_error(weights, plain_range(weights)).sum()


@settings(deadline=None)
@given(matrices)
def test_rows_do_not_touch_one_another(weights: np.ndarray) -> None:
    whole, apart = quantize(weights), [quantize(row[None]) for row in weights]
    assert np.array_equal(whole.codes, np.concatenate([row.codes for row in apart]))
    assert np.array_equal(whole.scales, np.concatenate([row.scales for row in apart]))
    assert np.array_equal(whole.zeros, np.concatenate([row.zeros for row in apart]))


def test_a_grid_of_sixteen_steps_is_kept() -> None:
    codes = np.arange(2 * BLOCK_SIZE, dtype=np.float32).reshape(1, -1) % (HIGHEST_CODE + 1)
    weights = (codes - 5) * np.float32(0.25)
    assert np.abs(quantize(weights).dequantized() - weights).max() < 1e-3


def test_zeros_stay_zeros() -> None:
    assert not quantize(np.zeros((3, BLOCK_SIZE), np.float32)).dequantized().any()


def test_an_important_column_is_kept_better() -> None:
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((256, BLOCK_SIZE)).astype(np.float32)
    importance = np.ones(BLOCK_SIZE, np.float32)
    importance[7] = 1000
    plain, weighted = quantize(weights).dequantized(), quantize(weights, importance).dequantized()
    assert np.square(weighted - weights)[:, 7].sum() < 0.7 * np.square(plain - weights)[:, 7].sum()


def test_the_same_matrix_gives_the_same_codes_whatever_the_threads_do() -> None:
    weights = np.random.default_rng(0).standard_normal((3000, 2 * BLOCK_SIZE)).astype(np.float32)
    first, second = quantize(weights), quantize(weights)
    assert np.array_equal(first.codes, second.codes)
    assert np.array_equal(first.scales, second.scales)
