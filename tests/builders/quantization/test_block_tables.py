"""Tables scaled by block: as good as what is published and as every scale tried, whatever weights and inputs are."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from builders.quantization.calibration.statistics import MatrixStatistics
from builders.quantization.grids.affine import AffineGrid
from builders.quantization.grids.table_blocks import TableGrid
from builders.quantization.kernels.block_search import lanes_of
from builders.quantization.rounding.block_tables import BlockTableMatrix, BlockTables, block_table_matrix
from builders.quantization.rounding.matrix import affine_matrix

Floats = NDArray[np.float32]
ALIKE = MatrixStatistics(np.ones(64, np.float32))


@pytest.fixture
def random() -> np.random.Generator:
    """Numbers of a test's own: the order of tests does not change them."""
    return np.random.default_rng(12)


def values_of(matrix: BlockTableMatrix, rows: int, columns: int) -> NDArray[np.float64]:
    """Compute scale * table[code] element by element, in float64."""
    found = np.empty(matrix.codes.shape)
    for row, column in np.ndindex(*found.shape):
        table = matrix.tables[row // rows].astype(np.float64)
        found[row, column] = table[matrix.codes[row, column]] * np.float64(matrix.scales[row, column // columns])
    return found


def relative_error(matrix: BlockTableMatrix, weights: Floats) -> float:
    return float(np.square(matrix.dequantized() - weights).sum() / np.square(weights).sum())


@pytest.mark.parametrize(("bits", "published"), [(3, 0.03454), (4, 0.009497)])
def test_normal_deviates_have_less_error_than_the_best_table_without_scales(
    bits: int, published: float, random: np.random.Generator
) -> None:
    """Max, Quantizing for Minimum Distortion, 1960: that of 8 and of 16 values. Scales take a quarter away."""
    sizes = np.exp(random.standard_normal((64, 16, 1)))
    weights = (random.standard_normal((64, 16, 32)) * sizes).astype(np.float32).reshape(64, 512)
    matrix = block_table_matrix(weights, BlockTables(bits, 64, 32), MatrixStatistics(np.ones(512, np.float32)))
    by_block = np.square((matrix.dequantized() - weights).reshape(64, 16, 32)).sum(-1)
    relative = (by_block / np.square(weights.reshape(64, 16, 32)).sum(-1)).mean()
    assert 0.55 * published < relative < 0.8 * published


@pytest.mark.parametrize("bits", [3, 4])
@pytest.mark.parametrize("columns", [16, 32, 64])
def test_rows_share_tables_in_order_and_codes_are_the_nearest(
    bits: int, columns: int, random: np.random.Generator
) -> None:
    weights = random.standard_normal((24, 128)).astype(np.float32)
    weights[5] = 0
    weights[7, columns : 2 * columns] = 0
    squares = np.exp(random.standard_normal(128)).astype(np.float32)
    matrix = block_table_matrix(weights, BlockTables(bits, 8, columns), MatrixStatistics(squares))
    shapes = (matrix.codes.shape, matrix.tables.shape, matrix.scales.shape)
    assert shapes == ((24, 128), (3, 1 << bits), (24, 128 // columns))
    assert (np.diff(matrix.tables.astype(np.float32)) >= 0).all()
    assert (matrix.scales >= 0).all()
    assert matrix.codes.max() < 1 << bits
    found = values_of(matrix, 8, columns)
    np.testing.assert_allclose(matrix.dequantized(), found, rtol=1e-6)
    assert not found[5].any()
    assert not found[7, columns : 2 * columns].any()
    scales = np.repeat(matrix.scales.astype(np.float64), columns, axis=1)[..., None]
    possible = scales * np.repeat(matrix.tables.astype(np.float64), 8, axis=0)[:, None, :]
    nearest = np.abs(possible - weights[..., None]).min(-1)
    np.testing.assert_allclose(np.abs(found - weights), nearest, atol=1e-6)


def test_scales_are_as_good_as_any_of_a_thousand(random: np.random.Generator) -> None:
    table = np.array([-1, -0.6, -0.35, -0.12, 0.1, 0.33, 0.62, 0.97], np.float32)
    blocks = random.standard_normal((200, 32)).astype(np.float32)
    squares = np.exp(random.standard_normal(32)).astype(np.float32)
    found = TableGrid(table, 32).scales(blocks, lanes_of(squares, 32)).astype(np.float64)

    def errors(scales: NDArray[np.float64]) -> NDArray[np.float64]:
        nearest = np.abs(blocks[..., None] - scales[:, None, None] * table).min(-1)
        return np.asarray((np.square(nearest) * squares).sum(-1))

    largest = np.abs(blocks).max(1).astype(np.float64)
    least = np.min([errors(largest * share) for share in np.linspace(0.5, 1.6, 1000)], axis=0)
    assert (errors(found) >= least * (1 - 1e-2)).all()
    assert errors(found).sum() < 1.03 * least.sum()


def test_what_counts_more_is_closer(random: np.random.Generator) -> None:
    weights = random.standard_normal((64, 64)).astype(np.float32)
    squares = np.where(np.arange(64) % 8 == 0, 100, 1).astype(np.float32)
    error = [
        float(
            (
                np.square(block_table_matrix(weights, BlockTables(3, 64, 32), one).dequantized() - weights) @ squares
            ).sum()
        )
        for one in (ALIKE, MatrixStatistics(squares))
    ]
    assert error[1] < 0.8 * error[0]


def test_second_moments_make_the_outputs_closer(random: np.random.Generator) -> None:
    inputs = random.standard_normal((512, 64)) @ random.standard_normal((64, 64))
    moments = (inputs.T @ inputs / 512).astype(np.float32)
    weights = random.standard_normal((128, 64)).astype(np.float32)
    light, full = (
        block_table_matrix(weights, BlockTables(3, 64, 32), MatrixStatistics(np.diagonal(moments).copy(), blocks))
        for blocks in ((), (moments[:32, :32], moments[32:, 32:]))
    )
    loss = [float(np.square((one.dequantized() - weights) @ inputs.T).sum()) for one in (light, full)]
    assert loss[1] < 0.8 * loss[0]


@pytest.mark.parametrize("level", ["light", "full"])
def test_the_number_of_threads_changes_nothing(
    level: str, monkeypatch: pytest.MonkeyPatch, random: np.random.Generator
) -> None:
    weights = random.standard_normal((96, 96)).astype(np.float32)
    inputs = random.standard_normal((256, 96)).astype(np.float32)
    moments = (inputs.T @ inputs,) if level == "full" else ()
    found = []
    for threads in ("1", "3"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        statistics = MatrixStatistics(np.square(inputs).mean(0), moments)
        found.append(block_table_matrix(weights, BlockTables(4, 16, 32), statistics))
    for part in ("codes", "tables", "scales"):
        np.testing.assert_array_equal(getattr(found[0], part), getattr(found[1], part))


@pytest.mark.parametrize("full", [False, True], ids=["light", "full"])
@pytest.mark.parametrize(
    "squares",
    [
        np.zeros(64),
        np.full(64, np.inf),
        np.full(64, np.nan),
        np.where(np.arange(64) == 3, np.inf, 1),
        np.full(64, 1e30),
    ],
    ids=["dead", "infinite", "nan", "one infinite", "huge"],
)
def test_inputs_that_say_nothing_count_alike(full: bool, squares: Floats, random: np.random.Generator) -> None:
    weights = random.standard_normal((64, 64)).astype(np.float32)
    squares = squares.astype(np.float32)
    moments = (np.diag(squares),) if full else ()
    found = block_table_matrix(weights, BlockTables(3, 64, 32), MatrixStatistics(squares, moments))
    plain = block_table_matrix(weights, BlockTables(3, 64, 32), ALIKE)
    assert relative_error(found, weights) < 1.05 * relative_error(plain, weights)


def test_large_weights_in_columns_that_count_for_nothing_do_no_harm(random: np.random.Generator) -> None:
    weights = random.standard_normal((64, 64)).astype(np.float32) * np.float32(1e-2)
    weights[:, 3] = 60000
    squares = np.ones(64, np.float32)
    squares[3] = 0
    found = block_table_matrix(weights, BlockTables(3, 64, 32), MatrixStatistics(squares)).dequantized()
    counted = np.arange(64) != 3
    assert np.square(found - weights)[:, counted].sum() < 0.04 * np.square(weights[:, counted]).sum()


def test_a_weight_past_float16_is_an_overflow() -> None:
    with pytest.raises(OverflowError, match="too large for a float16 scale"):
        block_table_matrix(np.full((2, 64), 1e9, np.float32), BlockTables(3, 2, 32), ALIKE)


def test_sixteen_values_in_fewer_bytes_are_as_good_as_blocks_with_zero_points(random: np.random.Generator) -> None:
    """4.5 bits per weight; uint4 with offsets takes 4.625."""
    weights = random.standard_normal((256, 64)).astype(np.float32)
    tables = block_table_matrix(weights, BlockTables(4, 64, 32), ALIKE)
    blocks = affine_matrix(weights, AffineGrid(32), ALIKE)
    assert relative_error(tables, weights) < float(
        np.square(blocks.dequantized() - weights).sum() / np.square(weights).sum()
    )
