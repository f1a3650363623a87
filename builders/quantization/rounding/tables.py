"""Matrices as codes into tables: some rows share a table of 16 values, and each row has a scale.

    weight = scale of the row * table of its rows [code]

Tables are searched for with the rows' scales as they are, then scales are fitted to the codes, a few times over: rows
of one table differ in size, and the shape of their distribution is what they share. With all second moments, codes are
chosen by GPTQ for the tables and scales that were found.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from builders.quantization.calibration.statistics import MatrixStatistics
from builders.quantization.grids.affine import as_stored, inverse
from builders.quantization.levels import Levels
from builders.quantization.rounding.gptq import Curvature, curvatures_of, round_rows
from builders.threads import single_threaded_products, thread_count

Floats = NDArray[np.float32]
Halves = NDArray[np.float16]
Codes = NDArray[np.uint8]

VALUES = 16
_ROUNDS = 3  # tables, then scales
_WIDEST = np.float32(
    256
)  # a weight in units of its row's scale: where columns that count for nothing hold the large ones
_WHOLE_ROW = 1 << 30  # more columns than a row has: all share a table


def looked_up(codes: Codes, tables: Halves) -> Floats:
    """Return the values [rows, columns] of codes in tables that rows share in order, in units of their scales."""
    of_row = np.repeat(tables.astype(np.float32), len(codes) // len(tables), axis=0)
    return np.take_along_axis(of_row, codes.astype(np.int64), axis=1)


@dataclass(frozen=True)
class TableMatrix:
    """A matrix: codes [rows, columns], tables [tables, 16] and scales [rows]. Rows share tables in order."""

    codes: Codes
    tables: Halves
    scales: Halves

    def dequantized(self) -> Floats:
        """Return the weights [rows, columns]."""
        return looked_up(self.codes, self.tables) * self.scales.astype(np.float32)[:, None]


@dataclass(frozen=True)
class _TableRows:
    """Rows of one table, whose scales are chosen. Implements `FittedGrid`."""

    levels: Levels


@dataclass(frozen=True)
class _TableGrid:
    """A table and scales as they were found. Implements `Grid`; a block is as wide as the row."""

    fitted: _TableRows
    columns: int = _WHOLE_ROW

    def fit(self, weights: Floats, importance: Floats) -> _TableRows:  # noqa: ARG002 - as `Grid` has it
        """Return what was found for the whole rows."""
        return self.fitted

    def pack(self, fitted: Sequence[Any], codes: Codes) -> tuple[Codes]:  # noqa: ARG002
        """Return the codes [rows, columns]."""
        return (codes,)


def table_matrix(weights: Floats, rows_of_table: int, statistics: MatrixStatistics) -> TableMatrix:
    """Quantize a matrix [rows, columns]. The number of threads does not change the result.

    Args:
        weights: the matrix, after folding.
        rows_of_table: how many rows share a table; divides the rows.
        statistics: of its inputs.

    Raises:
        OverflowError: a weight is too large for float16.
    """
    rows = len(weights)
    importance = np.ascontiguousarray(statistics.squares, np.float32)
    made = TableMatrix(
        np.empty(weights.shape, np.uint8),
        np.empty((rows // rows_of_table, VALUES), np.float16),
        np.empty(rows, np.float16),
    )

    def work(number: int) -> None:
        own = slice(number * rows_of_table, (number + 1) * rows_of_table)
        part = np.ascontiguousarray(weights[own], np.float32)
        table, scales = _fitted(part, importance, made.codes[own])
        if curvatures:
            (made.codes[own],) = round_rows(part, _TableGrid(_TableRows(_levels(table, scales))), curvatures)
        made.tables[number], made.scales[own] = table, scales

    with single_threaded_products():
        curvatures: list[Curvature] = curvatures_of(statistics.moments)
        with ThreadPoolExecutor(thread_count()) as pool:
            for _ in pool.map(work, range(len(made.tables))):
                pass  # a part's error is raised here
    return made


def _fitted(weights: Floats, importance: Floats, codes: Codes) -> tuple[Floats, Floats]:
    """Return a table [16] and scales [rows], as float16 holds them; writes the codes of the nearest values."""
    from builders.quantization.kernels.table_search import assign_codes, fit_table, refit_scales

    total = importance.sum(dtype=np.float64)
    least = np.abs(weights).max(1) / _WIDEST
    sizes = np.sqrt((np.square(weights, dtype=np.float64) @ importance) / total)
    scales = _half(np.maximum(sizes.astype(np.float32), least))
    table = np.empty(VALUES, np.float32)
    for number in range(_ROUNDS):
        if number:
            refit_scales(weights, importance, table, codes, scales)
            scales = _half(np.maximum(scales, least))
        fit_table(weights, importance[None], scales, number > 0, table)
        table = _half(table)
        assign_codes(weights, scales, table, codes)
    return table, scales


def _half(values: Floats) -> Floats:
    return as_stored(values).astype(np.float32)


def _levels(table: Floats, scales: Floats) -> Levels:
    return Levels(
        scales=scales[None],
        inverses=inverse(scales[None]),
        offsets=np.zeros_like(scales[None]),
        shared=_WHOLE_ROW,
        bases=np.zeros_like(scales),
        lowest=np.float32(0),
        highest=np.float32(VALUES - 1),
        table=table,
        borders=((table[1:] + table[:-1]) / 2).astype(np.float32),
    )
