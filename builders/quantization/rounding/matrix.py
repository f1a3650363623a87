"""A matrix on an affine grid, with whatever is known of its inputs: nothing, mean squares, or all second moments."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from builders.quantization.calibration.statistics import MatrixStatistics
from builders.quantization.grids.affine import AffineGrid, AffineMatrix
from builders.quantization.rounding.gptq import round_matrix
from builders.quantization.rounding.refit import refit_scales
from builders.threads import thread_count

Floats = NDArray[np.float32]

_ELEMENTS = 1 << 17  # that a thread works on at a time: they stay in a core's cache, and calls are few


def affine_matrix(weights: Floats, grid: AffineGrid, statistics: MatrixStatistics) -> AffineMatrix:
    """Quantize a matrix [rows, columns], whose columns are a multiple of the grid's.

    Raises:
        OverflowError: a weight is too large for a float16 scale.
    """
    if statistics.moments:
        return AffineMatrix(*round_matrix(weights, grid, statistics.moments, refit_scales))
    return nearest_matrix(weights, grid, statistics.squares)


def nearest_matrix(weights: Floats, grid: AffineGrid, importance: Floats | None = None) -> AffineMatrix:
    """Round each weight of a matrix to the nearest value. The number of threads does not change the result.

    Args:
        weights: [rows, columns]; the columns are a multiple of the grid's.
        grid: its blocks, and what is tried for each.
        importance: how much the squared error of each column counts, [columns]; equal by default.

    Raises:
        OverflowError: a weight is too large for a float16 scale.
    """
    from builders.quantization.kernels.block_search import lanes_of

    rows, columns = weights.shape
    shape = (rows, columns // grid.columns)
    made = AffineMatrix(np.empty((rows, columns), np.uint8), np.empty(shape, np.float16), np.empty(shape, np.uint8))
    lanes = lanes_of(np.ones(grid.columns, np.float32) if importance is None else importance, grid.columns)
    step = max(1, _ELEMENTS // columns)

    def work(first: int) -> None:
        part = slice(first, first + step)
        blocks = np.ascontiguousarray(weights[part]).reshape(-1, grid.columns)
        scales, zeros = grid.nearest(blocks, lanes, made.codes[part].reshape(blocks.shape))
        made.scales[part], made.zeros[part] = scales.reshape(-1, shape[1]), zeros.reshape(-1, shape[1])

    with ThreadPoolExecutor(thread_count()) as pool:
        for _ in pool.map(work, range(0, rows, step)):
            pass  # a part's error is raised here
    return made
