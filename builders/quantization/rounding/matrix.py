"""A matrix on an affine grid, with whatever is known of its inputs: nothing, mean squares, or all second moments."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from builders.checkpoint.sources import Rows
from builders.quantization.calibration.statistics import MatrixStatistics
from builders.quantization.grids.affine import AffineGrid, AffineMatrix, Bytes, Halves, Search, require_float16
from builders.quantization.rounding.gptq import round_matrix
from builders.quantization.rounding.refit import refit_scales
from builders.threads import thread_count
from targets.errors import CheckpointError

Floats = NDArray[np.float32]

NO_SEARCH = Search(())  # the weight of largest magnitude is laid on code 0, and the zero point is the middle
_ELEMENTS = 1 << 21  # that a thread works on at a time: 8 MiB at most


@dataclass(frozen=True)
class RowRange:
    """Some of a matrix's rows. Implements `Rows`."""

    matrix: Rows
    first: int
    count: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and columns."""
        return self.count, self.matrix.shape[1]

    def __getitem__(self, rows: slice, /) -> NDArray[Any]:
        """Return some of the rows."""
        first, last, _ = rows.indices(self.count)
        return self.matrix[self.first + first : self.first + last]


class NotFiniteError(ValueError):
    """A weight is NaN or infinite."""


@contextmanager
def scales_of(name: str) -> Iterator[None]:
    """Raise `CheckpointError`, which names the tensor, where a weight is too large for a float16 scale."""
    try:
        yield
    except OverflowError as error:
        raise CheckpointError(
            f"tensor {name!r}: {error}",
            fix="no trained language model has such weights: check the training run, or download it again",
        ) from error


def affine_matrix(weights: Floats, grid: AffineGrid, statistics: MatrixStatistics) -> AffineMatrix:
    """Quantize a matrix [rows, columns], whose columns are a multiple of the grid's.

    Raises:
        OverflowError: a weight is too large for a float16 scale.
    """
    if statistics.moments:
        return AffineMatrix(*round_matrix(weights, grid, statistics.moments, refit_scales))
    return nearest_matrix(weights, grid, statistics.squares)


def nearest_matrix(weights: Rows, grid: AffineGrid, importance: Floats | None = None) -> AffineMatrix:
    """Round each weight of a matrix to the nearest value: see `nearest_codes`."""
    return AffineMatrix(*nearest_codes(weights, grid, importance))


def nearest_codes(
    weights: Rows, grid: AffineGrid, importance: Floats | None = None, code_bits: int = 8
) -> tuple[Bytes, Halves, Bytes]:
    """Round each weight of a matrix to the nearest value. The number of threads does not change the result.

    Args:
        weights: [rows, columns]; the columns are a multiple of the grid's.
        grid: its blocks, and what is tried for each, or `NO_SEARCH`.
        importance: how much the squared error of each column counts, [columns]; equal by default.
        code_bits: 4 for two codes in a byte, the first in the low half; or 8.

    Returns codes [rows, columns * code_bits / 8], scales and zero points [rows, blocks].

    Raises:
        OverflowError: a weight is too large for a float16 scale.
        NotFiniteError: a weight is NaN or infinite.
    """
    from builders.quantization.kernels.block_search import lanes_of, round_blocks

    rows, columns = weights.shape
    shape = (rows, columns // grid.columns)
    codes = np.empty((rows, columns * code_bits // 8), np.uint8)
    scales, zeros = np.empty(shape, np.float16), np.full(shape, 1 << (grid.bits - 1), np.uint8)
    lanes = np.empty((grid.columns, 0), np.float32) if importance is None else lanes_of(importance, grid.columns)
    tried, step = grid.search.tried, max(1, _ELEMENTS // columns)

    def work(first: int) -> None:
        part = slice(first, first + step)
        words = np.ascontiguousarray(weights[part]).view(np.uint32).reshape(scales[part].size, -1)
        words.flags.writeable = False  # as a mapped file is: the kernel is compiled for one kind of array
        is_finite, largest = round_blocks(
            words,
            lanes,
            tried,
            grid.top,
            grid.search.centred,
            scales[part].reshape(-1).view(np.uint16),
            zeros[part].reshape(-1),
            codes[part].reshape(scales[part].size, -1).view(np.uint16),
        )
        if not is_finite:
            raise NotFiniteError("a weight is NaN or infinite")
        require_float16(np.uint32(largest).view(np.float32))

    with ThreadPoolExecutor(thread_count()) as pool:
        for _ in pool.map(work, range(0, rows, step)):
            pass  # a part's error is raised here
    return codes, scales, zeros
