"""Columns that change one another, held to the formulas: one row and one column at a time, in float64."""

from __future__ import annotations

import numpy as np
import pytest

from builders.quantization.grids.affine import AffineGrid
from builders.quantization.grids.ggml import GgmlGrid
from builders.quantization.grids.grid import FittedGrid, Grid
from builders.quantization.kernels.sweep import descend_columns, pass_errors_on
from tests.support.block_levels import nearest

GRIDS: dict[str, Grid] = {
    "affine": AffineGrid(32),
    **{kind: GgmlGrid(kind, "it") for kind in ("IQ4_NL", "Q4_K", "Q6_K")},
}
ROWS, FIRST, COUNT = 5, 16, 12  # columns in the middle of the block, of two groups of Q6_K


def fitted(grid: Grid) -> tuple[FittedGrid, np.ndarray]:
    weights = np.random.default_rng(0).standard_normal((ROWS, grid.columns)).astype(np.float32)
    block = grid.fit(weights, np.ones(grid.columns, np.float32))
    return block, np.ascontiguousarray(weights[:, FIRST : FIRST + COUNT].T)


def factors() -> np.ndarray:
    random = np.random.default_rng(1)
    inputs = random.standard_normal((60, COUNT)) @ random.standard_normal((COUNT, COUNT))
    return (inputs.T @ inputs / 60).astype(np.float32)


@pytest.mark.parametrize("name", GRIDS)
def test_errors_are_passed_on_to_the_columns_after(name: str) -> None:
    block, own = fitted(GRIDS[name])
    upper = np.ascontiguousarray(np.triu(factors()))
    left, codes, values = own.astype(np.float64), np.empty(own.shape, np.uint8), np.empty_like(own)
    errors = pass_errors_on(own, upper, block.levels.parts, FIRST, codes, values)
    for column in range(COUNT):
        wanted_codes, wanted = nearest(block.levels, FIRST + column, left[column].astype(np.float32))
        np.testing.assert_array_equal(codes[column], wanted_codes)
        np.testing.assert_array_equal(values[column], wanted)
        error = (left[column] - wanted) / upper[column, column]
        np.testing.assert_allclose(errors[column], error, atol=1e-4)
        left[column + 1 :] -= upper[column, column + 1 :, None].astype(np.float64) * error
    assert (errors != 0).any(axis=0).all()


@pytest.mark.parametrize("name", GRIDS)
def test_each_column_in_turn_gets_its_best_values(name: str) -> None:
    block, weights = fitted(GRIDS[name])
    moments = factors()
    codes, values = np.empty(weights.shape, np.uint8), np.zeros_like(weights)  # far from the best ones
    now = values.astype(np.float64)
    gradient = moments @ (weights - values)
    changes = descend_columns(gradient, moments, block.levels.parts, FIRST, codes, values)
    for column in range(COUNT):
        slope = moments[column].astype(np.float64) @ (weights - now)
        aim = now[column] + slope / moments[column, column]
        wanted_codes, wanted = nearest(block.levels, FIRST + column, aim.astype(np.float32))
        np.testing.assert_array_equal(codes[column], wanted_codes)
        np.testing.assert_array_equal(values[column], wanted)
        np.testing.assert_allclose(changes[column], wanted - now[column], atol=1e-6)
        now[column] = wanted
