"""Tables of 16 values: as good as exact k-means, and what coremltools' own operations make of them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from builders.quantization.calibration.statistics import MatrixStatistics
from builders.quantization.kernels.table_search import fit_table
from builders.quantization.rounding.tables import TableMatrix, table_matrix

Floats = NDArray[np.float32]


@pytest.fixture
def random() -> np.random.Generator:
    """Numbers of a test's own: the order of tests does not change them."""
    return np.random.default_rng(11)


def least_error(values: NDArray[np.float64], mass: NDArray[np.float64], count: int) -> float:
    """Return the least weighted squared error of `count` values, by trying all divisions of the sorted ones."""
    order = np.argsort(values)
    values, mass = values[order], mass[order]
    sums = [np.concatenate([[0], np.cumsum(mass * values**power)]) for power in range(3)]

    def errors(end: int) -> NDArray[np.float64]:
        own, along, square = (total[end] - total[:end] for total in sums)
        return np.asarray(square - along**2 / own)

    best = np.array([0, *(errors(end)[0] for end in range(1, len(values) + 1))])
    for _ in range(count - 1):
        best = np.array([0, *((best[:end] + errors(end)).min() for end in range(1, len(values) + 1))])
    return float(best[-1])


def error_of(matrix: TableMatrix, weights: Floats, importance: Floats) -> float:
    return float((np.square(matrix.dequantized() - weights, dtype=np.float64) * importance).sum())


@pytest.mark.parametrize("kind", ["normal", "with an outlier", "few values"])
def test_a_table_is_as_good_as_exact_k_means(kind: str, random: np.random.Generator) -> None:
    weights = random.standard_normal((4, 100)).astype(np.float32)
    if kind == "with an outlier":
        weights[1, 7] = -40
    if kind == "few values":
        weights = np.round(weights * 2) / 2
    importance = np.exp(random.standard_normal(100)).astype(np.float32)
    table = np.empty(16, np.float32)
    fit_table(weights, importance[None], np.ones(4, np.float32), False, table)
    assert (np.diff(table) >= 0).all()
    nearest = np.abs(weights[..., None] - table).min(-1)
    found = (np.square(nearest, dtype=np.float64) * importance).sum()
    every = np.repeat(importance[None], 4, 0).ravel().astype(np.float64)
    exact = least_error(weights.ravel().astype(np.float64), every, 16)
    assert exact * (1 - 1e-5) <= found < max(1.03 * exact, 1e-9)


def test_normal_deviates_reach_the_published_error(random: np.random.Generator) -> None:
    """.009497 with 16 values: Max, Quantizing for Minimum Distortion, 1960. A scale a row takes their sizes away."""
    sizes = np.exp(random.standard_normal((64, 1)))
    weights = (random.standard_normal((64, 2048)) * sizes).astype(np.float32)
    matrix = table_matrix(weights, 32, MatrixStatistics(np.ones(2048, np.float32)))
    relative = np.square(matrix.dequantized() - weights).sum(1) / np.square(weights).sum(1)
    assert 0.0090 < relative.mean() < 0.0098


def test_rows_share_tables_in_order_and_codes_are_the_nearest(random: np.random.Generator) -> None:
    weights = random.standard_normal((24, 64)).astype(np.float32)
    weights[5] = 0
    importance = np.exp(random.standard_normal(64)).astype(np.float32)
    matrix = table_matrix(weights, 8, MatrixStatistics(importance))
    assert (matrix.codes.shape, matrix.tables.shape, matrix.scales.shape) == ((24, 64), (3, 16), (24,))
    assert not matrix.dequantized()[5].any()
    values = matrix.tables[1].astype(np.float32) * np.float32(matrix.scales[9])
    error = np.abs(weights[9, :, None] - values)
    np.testing.assert_allclose(error.min(-1), np.abs(matrix.dequantized()[9] - weights[9]), atol=1e-6)


def test_what_counts_more_is_closer(random: np.random.Generator) -> None:
    weights = random.standard_normal((32, 64)).astype(np.float32)
    weights[:, :8] *= 4
    importance = np.where(np.arange(64) < 8, 100, 1).astype(np.float32)
    alike, weighted = (
        table_matrix(weights, 32, MatrixStatistics(squares)) for squares in (np.ones(64, np.float32), importance)
    )
    assert error_of(weighted, weights, importance) < 0.8 * error_of(alike, weights, importance)


def test_second_moments_make_the_outputs_closer(random: np.random.Generator) -> None:
    inputs = random.standard_normal((512, 64)) @ random.standard_normal((64, 64))
    moments = (inputs.T @ inputs / 512).astype(np.float32)
    weights = random.standard_normal((64, 64)).astype(np.float32)
    light, full = (
        table_matrix(weights, 32, MatrixStatistics(np.diagonal(moments).copy(), blocks))
        for blocks in ((), (moments[:32, :32], moments[32:, 32:]))
    )
    loss = [float(np.square((one.dequantized() - weights) @ inputs.T).sum()) for one in (light, full)]
    assert loss[1] < 0.8 * loss[0]


def test_the_number_of_threads_changes_nothing(monkeypatch: pytest.MonkeyPatch, random: np.random.Generator) -> None:
    weights = random.standard_normal((64, 96)).astype(np.float32)
    found = []
    for threads in ("1", "3"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        found.append(table_matrix(weights, 16, MatrixStatistics(np.ones(96, np.float32), (np.eye(96),))))
    for part in ("codes", "tables", "scales"):
        np.testing.assert_array_equal(getattr(found[0], part), getattr(found[1], part))


def test_large_weights_in_columns_that_count_for_nothing_do_no_harm(random: np.random.Generator) -> None:
    weights = random.standard_normal((8, 64)).astype(np.float32) * np.float32(1e-4)
    weights[:, 3] = 60000
    importance = np.ones(64, np.float32)
    importance[3] = 0
    matrix = table_matrix(weights, 8, MatrixStatistics(importance))
    assert np.isfinite(matrix.dequantized()).all()


def test_a_weight_past_float16_is_an_overflow() -> None:
    weights = np.full((2, 4), 1e9, np.float32)
    with pytest.raises(OverflowError, match="too large for a float16 scale"):
        table_matrix(weights, 2, MatrixStatistics(np.ones(4, np.float32)))
