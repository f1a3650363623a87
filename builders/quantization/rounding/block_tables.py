"""Matrices as codes into tables, in blocks along a row: some rows share a table, and each block has a scale.

    weight = scale of the block * table of its rows [code]

A block's scale takes away how large its weights are, and a table has the shape of what is left. Tables are searched for
with the blocks' largest weights as scales, then scales for the table, a few times over. With all second moments, GPTQ
chooses codes and scales for the tables that were found.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from builders.quantization.calibration.statistics import MatrixStatistics
from builders.quantization.grids.affine import as_stored
from builders.quantization.grids.table_blocks import TableGrid
from builders.quantization.rounding.gptq import DAMPING, Curvature, curvatures_of, round_rows
from builders.quantization.rounding.refit import refit_scales
from builders.quantization.rounding.tables import looked_up
from builders.threads import single_threaded_products, thread_count

Floats = NDArray[np.float32]
Halves = NDArray[np.float16]
Codes = NDArray[np.uint8]

_ROUNDS = 4  # tables, then scales
_WIDEST = np.float32(256)  # a weight in units of its scale: one that counts for nothing must not make bins wide


@dataclass(frozen=True)
class BlockTables:
    """How a matrix is stored: codes of `bits`, tables that `rows` rows share, scales of `columns` columns."""

    bits: int
    rows: int
    columns: int


@dataclass(frozen=True)
class BlockTableMatrix:
    """A matrix: codes [rows, columns], tables [tables, values], scales [rows, blocks]. Rows share tables in order."""

    codes: Codes
    tables: Halves
    scales: Halves

    def dequantized(self) -> Floats:
        """Return the weights [rows, columns]."""
        values = looked_up(self.codes, self.tables)
        blocks = values.reshape(*self.scales.shape, -1) * self.scales.astype(np.float32)[..., None]
        return blocks.reshape(values.shape)


def block_table_matrix(weights: Floats, stored: BlockTables, statistics: MatrixStatistics) -> BlockTableMatrix:
    """Quantize a matrix [rows, columns]. The number of threads does not change the result.

    Args:
        weights: the matrix, after folding.
        stored: its tables and blocks, which divide it.
        statistics: of its inputs.

    Raises:
        OverflowError: a weight is too large for float16.
    """
    rows, columns = weights.shape
    importance = _relative(statistics.squares)
    damped = np.where(importance > 0, importance + np.float32(DAMPING), np.float32(0))
    made = BlockTableMatrix(
        np.empty(weights.shape, np.uint8),
        np.empty((rows // stored.rows, 1 << stored.bits), np.float16),
        np.empty((rows, columns // stored.columns), np.float16),
    )

    def work(number: int) -> None:
        own = slice(number * stored.rows, (number + 1) * stored.rows)
        part = np.ascontiguousarray(weights[own], np.float32)
        made.tables[number] = table = _table(part, damped, stored)
        grid = TableGrid(table, stored.columns)
        if curvatures:
            made.codes[own], made.scales[own] = round_rows(part, grid, curvatures, refit_scales)
        else:
            _round(part, grid, importance, made.codes[own], made.scales[own])

    with single_threaded_products():
        curvatures: list[Curvature] = curvatures_of(statistics.moments)
        with ThreadPoolExecutor(thread_count()) as pool:
            for _ in pool.map(work, range(len(made.tables))):
                pass  # a part's error is raised here
    return made


def _relative(squares: Floats) -> Floats:
    """Return the importance of columns in units of its mean; of one that says nothing, that all count alike."""
    mean = squares.mean(dtype=np.float64)
    relative = squares / mean if 0 < mean < np.inf else np.ones_like(squares)
    return np.ascontiguousarray(relative, np.float32)


def _table(weights: Floats, importance: Floats, stored: BlockTables) -> Floats:
    """Return the table of some rows, as float16 holds it."""
    from builders.quantization.kernels.block_search import lanes_of
    from builders.quantization.kernels.table_search import fit_table

    blocks, lanes = weights.reshape(-1, stored.columns), lanes_of(importance, stored.columns)
    columns, largest = importance.reshape(-1, stored.columns), np.abs(blocks).max(1)
    scales, table = _half(largest), np.empty(1 << stored.bits, np.float32)
    for number in range(_ROUNDS):
        if number:
            scales = TableGrid(table, stored.columns).scales(blocks, lanes).astype(np.float32)
        fit_table(blocks, columns, np.where(scales * _WIDEST >= largest, scales, 0), number > 0, table)
        table = _half(table)
    return table


def _round(weights: Floats, grid: TableGrid, importance: Floats, codes: Codes, scales: Halves) -> None:
    """Write the scales of blocks and the codes of the nearest values."""
    from builders.quantization.kernels.block_search import lanes_of
    from builders.quantization.kernels.table_search import assign_codes

    blocks = weights.reshape(-1, grid.columns)
    found = grid.scales(blocks, lanes_of(importance, grid.columns))
    assign_codes(blocks, found.astype(np.float32), grid.table, codes.reshape(blocks.shape))
    scales[...] = found.reshape(scales.shape)


def _half(values: Floats) -> Floats:
    return as_stored(values).astype(np.float32)
