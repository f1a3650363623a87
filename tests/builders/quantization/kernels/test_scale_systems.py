"""Small systems of many rows: held to numpy's solver, row by row, in float64."""

from __future__ import annotations

import numpy as np
import pytest

from builders.quantization.kernels.scale_systems import block_sums, errors, solve

BLOCKS, ROWS = 7, 20


def systems(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return positive definite systems [rows, blocks, blocks] and targets [rows, blocks]."""
    random = np.random.default_rng(seed)
    inputs = random.standard_normal((ROWS, 3 * BLOCKS, BLOCKS))
    return inputs.transpose(0, 2, 1) @ inputs, random.standard_normal((ROWS, BLOCKS))


def laid_out(system: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows last; what is below the diagonal is not filled."""
    whole = np.where(np.triu(np.ones((BLOCKS, BLOCKS))) > 0, system, np.nan).transpose(1, 2, 0)
    return np.ascontiguousarray(whole, np.float32), np.ascontiguousarray(target.T, np.float32)


@pytest.mark.parametrize("near", [0, 0.05])
def test_each_row_has_its_solution(near: float) -> None:
    system, target = systems()
    found = np.empty((BLOCKS, ROWS), np.float32)
    solve(*laid_out(system, target), np.float32(near), found)
    diagonal = np.einsum("rbb->rb", system).mean(axis=1)
    eased = system + near * diagonal[:, None, None] * np.eye(BLOCKS)
    np.testing.assert_allclose(found.T, np.linalg.solve(eased, target[..., None])[..., 0], rtol=2e-3, atol=1e-4)


def test_a_row_of_zeros_is_solved_and_an_indefinite_one_is_not() -> None:
    system, target = systems()
    system[3], target[3] = 0, 0
    system[5] -= 1000 * np.eye(BLOCKS)
    found = np.empty((BLOCKS, ROWS), np.float32)
    solve(*laid_out(system, target), np.float32(1e-4), found)
    assert not found[:, 3].any()
    assert np.isnan(found[:, 5]).any()
    assert np.isfinite(np.delete(found, 5, axis=1)).all()


def test_errors_are_those_of_the_quadratic_form() -> None:
    system, target = systems()
    scales = np.random.default_rng(1).standard_normal((ROWS, BLOCKS))
    found = np.empty(ROWS, np.float32)
    errors(*laid_out(system, target), np.ascontiguousarray(scales.T, np.float32), found)
    wanted = np.einsum("rb,rbc,rc->r", scales, system, scales) - 2 * np.einsum("rb,rb->r", scales, target)
    np.testing.assert_allclose(found, wanted, rtol=1e-4)


def test_sums_are_of_each_block() -> None:
    one, other = np.random.default_rng(2).standard_normal((2, BLOCKS * 4, ROWS)).astype(np.float32)
    found = np.empty((BLOCKS, ROWS), np.float32)
    block_sums(one, other, 4, found)
    np.testing.assert_allclose(found, (one * other).reshape(BLOCKS, 4, ROWS).sum(axis=1), rtol=1e-4, atol=1e-5)
