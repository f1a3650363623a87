"""A matrix on an affine grid, with whatever is known of its inputs: mean squares, or all second moments."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from builders.quantization.calibration.statistics import MatrixStatistics
from builders.quantization.grids.affine import AffineGrid, AffineMatrix
from builders.quantization.rounding.gptq import round_matrix
from builders.quantization.rounding.refit import refit_scales
from builders.quantization.rounding.rows import by_rows

Floats = NDArray[np.float32]


def affine_matrix(weights: Floats, grid: AffineGrid, statistics: MatrixStatistics) -> AffineMatrix:
    """Quantize a matrix [rows, columns], whose columns are a multiple of the grid's.

    Raises:
        OverflowError: a weight is too large for a float16 scale.
    """
    if statistics.moments:
        return AffineMatrix(*round_matrix(weights, grid, statistics.moments, refit_scales))

    def work(rows: Floats) -> tuple[NDArray[Any], ...]:
        codes, blocks = np.empty(rows.shape, np.uint8), []
        for start in range(0, rows.shape[1], grid.columns):
            own = slice(start, start + grid.columns)
            blocks.append(grid.fit(rows[:, own], statistics.squares[own]))
            codes[:, own] = blocks[-1].codes(rows[:, own].T).T
        return grid.pack(blocks, codes)

    return AffineMatrix(*by_rows(weights, work))
