"""GPTQ, descent and refit: held to what can be computed by other means, and to laws."""

from __future__ import annotations

import gc
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders.quantization.calibration.statistics import MatrixStatistics
from builders.quantization.grids.affine import AffineGrid
from builders.quantization.rounding import gptq
from builders.quantization.rounding import rows as rows_module
from builders.quantization.rounding.gptq import Curvature, Rounded, curvatures_of, round_matrix, round_rows
from builders.quantization.rounding.matrix import affine_matrix
from builders.quantization.rounding.refit import refit_scales
from tests.support.block_levels import nearest

GRID = AffineGrid(32)


def matrix(rows: int = 40, columns: int = 128, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.05, (rows, columns)).astype(np.float32)


def moments(columns: int = 128, seed: int = 1, rank: int | None = None) -> np.ndarray:
    """Return second moments of inputs that hang together, some much larger than others."""
    random = np.random.default_rng(seed)
    mixed = random.normal(size=(rank or 3 * columns, rank or columns)) @ random.normal(size=(rank or columns, columns))
    inputs = mixed * np.exp(random.normal(0, 1, columns))
    return (inputs.T @ inputs / len(inputs)).astype(np.float32)


def output_error(weights: np.ndarray, stored: np.ndarray, second: np.ndarray) -> float:
    error = (weights - stored).astype(np.float64)
    return float(np.einsum("rc,cd,rd->", error, second.astype(np.float64), error))


def test_more_knowledge_means_a_smaller_error_of_the_outputs() -> None:
    weights, second = matrix(), moments()
    squares = np.diagonal(second).copy()
    plain = affine_matrix(weights, GRID, MatrixStatistics(np.ones_like(squares))).dequantized()
    light = affine_matrix(weights, GRID, MatrixStatistics(squares)).dequantized()
    full = affine_matrix(weights, GRID, MatrixStatistics(squares, [second])).dequantized()
    errors = [output_error(weights, stored, second) for stored in (plain, light, full)]
    assert errors[1] < 0.95 * errors[0]
    assert errors[2] < 0.7 * errors[1]


def test_inputs_that_do_not_hang_together_leave_nothing_to_compensate() -> None:
    """With a diagonal H, GPTQ is rounding to nearest on a grid that is weighted by H: what `light` does."""
    weights = matrix()
    squares = np.exp(np.random.default_rng(2).normal(0, 1, 128)).astype(np.float32)
    light = affine_matrix(weights, GRID, MatrixStatistics((squares + gptq.DAMPING * squares.mean()) ** 1))
    codes, scales, zeros = round_matrix(weights, GRID, [np.diag(squares)])
    np.testing.assert_array_equal(codes, light.codes)
    np.testing.assert_array_equal(scales, light.scales)
    np.testing.assert_array_equal(zeros, light.zeros)


def test_the_factor_is_the_one_of_the_inverse() -> None:
    second = moments(64)
    found = Curvature.of(second)
    assert np.allclose(found.factor, np.triu(found.factor))
    np.testing.assert_allclose(found.factor.T @ found.factor, np.linalg.inv(found.damped.astype(np.float64)), rtol=1e-3)


def test_errors_are_passed_on_as_in_the_paper() -> None:
    """One row, columns one after another, by the formulas of arXiv 2210.17323 with the inverse itself, in float64."""
    weights, second = matrix(rows=1, columns=32)[0], moments(32)
    curvature = Curvature.of(second)
    rounded = gptq._gptq(weights[:, None].copy(), GRID, curvature.factor)
    (block,) = rounded.blocks
    left, inverse = weights.astype(np.float64), np.linalg.inv(curvature.damped.astype(np.float64))
    for column in range(32):
        _, value = nearest(block.levels, column, left[column : column + 1].astype(np.float32))
        assert value[0] == rounded.values[column, 0]
        error = (left[column] - value[0]) / inverse[column, column]
        left -= error * inverse[:, column]
        inverse -= np.outer(inverse[:, column], inverse[column]) / inverse[column, column]
        left[column], inverse[column, column] = value[0], 1.0


def test_descent_ends_no_worse_and_each_step_was_the_best_one() -> None:
    weights, second = matrix(rows=8, columns=32), moments(32)
    curvature = Curvature.of(second)
    rounded = gptq._gptq(np.ascontiguousarray(weights.T), GRID, curvature.factor)
    before = rounded.values.copy()
    gptq._descend(rounded, 32, curvature.damped)
    (block,) = rounded.blocks
    for row in range(8):
        values = before[:, row].copy()
        for column in range(32):
            tries = np.array([block.scale[row] * (code - block.zero[row]) for code in range(16)], np.float32)
            errors = []
            for tried in tries:
                values[column] = tried
                errors.append(output_error(weights[row : row + 1], values[None], curvature.damped))
            best = int(np.argmin(errors))
            assert errors[int(rounded.codes[column, row])] <= errors[best] * (1 + 1e-4)
            values[column] = rounded.values[column, row]
    assert output_error(weights, rounded.values.T, curvature.damped) <= output_error(
        weights, before.T, curvature.damped
    )


def test_refitted_scales_solve_the_small_system() -> None:
    """Against numpy's least squares on the inputs themselves, in float64."""
    random = np.random.default_rng(5)
    inputs = random.normal(size=(500, 64)) @ random.normal(size=(64, 64))
    second = (inputs.T @ inputs / 500).astype(np.float32)
    curvature = Curvature(second, np.eye(64, dtype=np.float32))
    weights = matrix(rows=3, columns=64)
    blocks = [GRID.fit(weights[:, start : start + 32], np.ones(32, np.float32)) for start in (0, 32)]
    codes = np.stack([nearest(blocks[column // 32].levels, column, weights[:, column])[0] for column in range(64)])
    rounded = Rounded(np.ascontiguousarray(weights.T), codes, np.zeros((64, 3), np.float32), list(blocks))
    zeros = np.stack([block.zero for block in blocks])
    refit_scales(rounded, curvature)
    for row in range(3):
        parts = [
            inputs[:, 32 * n : 32 * n + 32] @ (codes[32 * n : 32 * n + 32, row].astype(np.float64) - zeros[n, row])
            for n in range(2)
        ]
        wanted = np.linalg.lstsq(np.stack(parts, axis=1), inputs @ weights[row].astype(np.float64), rcond=None)[0]
        np.testing.assert_allclose([block.scale[row] for block in blocks], wanted, rtol=2e-3)


def test_threads_and_chunks_do_not_change_the_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    weights, second = matrix(rows=200), moments()
    statistics = MatrixStatistics(np.diagonal(second).copy(), [second])
    monkeypatch.setattr(rows_module, "_ROWS", 64)
    found = []
    for threads in ("1", "2", "3"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        made = affine_matrix(weights, GRID, statistics)
        found.append((made.codes.tobytes(), made.scales.tobytes(), made.zeros.tobytes()))
    assert found[0] == found[1] == found[2]


def test_wide_matrices_are_rounded_block_of_moments_by_block() -> None:
    weights, second = matrix(columns=192), moments(192)
    parts = [second[:128, :128], second[128:, 128:]]
    codes, _, _ = round_matrix(weights, GRID, parts, refit_scales)
    left = round_matrix(weights[:, :128], GRID, parts[:1], refit_scales)[0]
    right = round_matrix(weights[:, 128:], GRID, parts[1:], refit_scales)[0]
    np.testing.assert_array_equal(codes, np.concatenate([left, right], axis=1))


@pytest.mark.parametrize(
    "second",
    [
        np.zeros((128, 128), np.float32),
        moments(rank=3),
        np.ones((128, 128), np.float32),
        np.diag([1e30] + [1e-30] * 127).astype(np.float32),
        moments() * np.float32(1e-30),
        moments() - np.float32(30) * np.eye(128, dtype=np.float32),  # not positive definite at all
    ],
    ids=["dead", "rank 3", "rank 1", "one giant", "tiny", "indefinite"],
)
def test_moments_that_can_not_be_factored_do_no_harm(second: np.ndarray) -> None:
    weights = matrix()
    squares = np.maximum(np.diagonal(second), 0)
    made = affine_matrix(weights, GRID, MatrixStatistics(squares, [second])).dequantized()
    plain = affine_matrix(weights, GRID, MatrixStatistics(np.ones(128, np.float32))).dequantized()
    assert np.isfinite(made).all()
    assert np.abs(made - weights).max() < 10 * np.abs(plain - weights).max()


@settings(max_examples=30, deadline=None)
@given(
    scale=st.floats(1e-3, 10),
    zero=st.integers(0, 15),
    codes=st.lists(st.integers(0, 15), min_size=32, max_size=32),
)
def test_the_search_is_no_worse_than_the_plain_range(scale: float, zero: int, codes: list[int]) -> None:
    stored = np.float32(np.float16(scale))
    weights = stored * (np.asarray(codes, np.float32)[None] - zero)
    made = affine_matrix(weights, GRID, MatrixStatistics(np.ones(32, np.float32))).dequantized()
    step = np.float32(np.float16(np.ptp(np.append(weights, 0)) / 15)) or np.float32(1)
    offset = np.clip(np.rint(-weights.min(initial=0) / step), 0, 15)
    plain = (np.clip(np.rint(weights / step) + offset, 0, 15) - offset) * step
    rounding = 32 * (np.abs(weights).max() * 2**-11) ** 2  # of the scale, to float16
    assert np.square(made - weights).sum() <= np.square(plain - weights).sum() * 1.001 + rounding + 1e-12


def test_a_scale_too_large_for_float16_is_an_error() -> None:
    with pytest.raises(OverflowError, match="float16"):
        affine_matrix(matrix() * np.float32(1e9), GRID, MatrixStatistics(np.ones(128, np.float32)))


def test_scales_are_positive() -> None:
    for seed, sign in itertools.product(range(3), (1, -1)):
        weights = sign * np.abs(matrix(seed=seed))
        second = moments(seed=seed)
        made = affine_matrix(weights, GRID, MatrixStatistics(np.diagonal(second).copy(), [second]))
        assert (made.scales > 0).all()


def test_its_arrays_are_freed_without_a_search_for_cycles() -> None:
    """At mini's size they are hundreds of megabytes, and so few objects that Python would seldom look."""
    weights = matrix(columns=64)
    curvatures = curvatures_of([moments(columns=64)])
    round_rows(weights, GRID, curvatures, refit_scales)  # compiles
    gc.collect()
    gc.disable()
    try:
        round_rows(weights, GRID, curvatures, refit_scales)
        assert gc.collect() == 0
    finally:
        gc.enable()
