"""A program's matrices, a few rows at a time: a call never holds a whole one, unless an operation needs it whole.

What our converter writes, blocks of 4-bit codes, is decompressed by a compiled loop from the mapped file. Other
constants that a program may hold are read and computed whole, then taken by rows.

The product is computed here, where nearly all time goes: each piece of a matrix is decompressed once and multiplied
with the rows of every sequence, a piece a thread. So a sequence's results depend neither on the others nor on the
number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from builders.runtime.coreml.program_file import Blob, BlobFile

PIECE_ROWS = 512  # of a matrix: fewer make the product slower, by a tenth where 8,192 columns have 128
_PACKED = {"int4": np.uint8(8), "uint4": np.uint8(0)}  # and what turns their codes into numbers from 0 up
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Matrix:
    """A constant of two or more dimensions. `rows(first, last)` returns some of its rows in float32."""

    shape: tuple[int, ...]
    rows: Callable[[int, int], Floats]

    def pieces(self) -> Iterator[tuple[int, int]]:
        """Yield where pieces of `PIECE_ROWS` rows begin and end."""
        for first in range(0, self.shape[0], PIECE_ROWS):
            yield first, min(first + PIECE_ROWS, self.shape[0])

    def whole(self) -> Floats:
        """Return all rows."""
        return self.rows(0, self.shape[0])

    def taken(self, indices: NDArray[np.int64]) -> Floats:
        """Return the rows of some indices, which may be negative: [..., columns]."""
        unique, places = np.unique(indices, return_inverse=True)
        found = np.empty((len(unique), *self.shape[1:]), np.float32)
        for place, index in enumerate(unique.tolist()):
            row = index + self.shape[0] if index < 0 else index
            if not 0 <= row < self.shape[0]:
                raise IndexError(f"row {index} of {self.shape[0]}")
            found[place] = self.rows(row, row + 1)[0]
        return found[places.reshape(indices.shape)]


def matrix_of(values: Floats) -> Matrix:
    """Return a matrix whose values are in memory."""
    return Matrix(values.shape, lambda first, last: values[first:last])


def half_matrix(blobs: BlobFile, blob: Blob) -> Matrix:
    """Return a float16 constant of the weights' file."""
    values = blobs.mapped(blob).view(np.float16).reshape(blob.shape)
    return Matrix(blob.shape, lambda first, last: values[first:last].astype(np.float32))


def packed_matrix(blobs: BlobFile, arguments: dict[str, Any]) -> Matrix | None:
    """Return what `constexpr_blockwise_shift_scale` yields of 4-bit codes in blocks of a row; None for other constants.

    Its result is float16. `arguments` are the operation's, in which constants of the weights' file are `Blob`s.
    """
    data, scale, offset = (arguments.get(name) for name in ("data", "scale", "offset"))
    if not isinstance(data, Blob) or not isinstance(scale, Blob) or data.type_name not in _PACKED:
        return None
    if offset is not None and not (isinstance(offset, Blob) and offset.type_name == data.type_name):
        return None
    if len(data.shape) != 2 or scale.type_name != "fp16" or scale.shape[0] != data.shape[0]:
        return None
    rows, columns = data.shape
    blocks = scale.shape[1]
    if columns % (2 * blocks):
        return None
    flip = _PACKED[data.type_name]
    codes = np.asarray(blobs.mapped(data)).reshape(rows, columns // 2)
    scales = np.asarray(blobs.mapped(scale)).view(np.uint16).reshape(rows, blocks)
    offsets = np.empty(0, np.uint8) if offset is None else np.asarray(blobs.mapped(offset))

    def decompressed(first: int, last: int) -> Floats:
        from builders.runtime.coreml.decompress import decompress

        out = np.empty((last - first, columns), np.float32)
        decompress(codes, scales, offsets, flip, first, out)
        return out

    return Matrix(data.shape, decompressed)


def products(parts: Sequence[Floats], matrix: Matrix, bias: Floats | None, pool: Executor) -> list[Floats]:
    """Multiply each of `parts` [rows, columns] with a matrix [out, columns], transposed: [rows, out] each."""
    found = [np.empty((len(part), matrix.shape[0]), np.float32) for part in parts]

    def work(piece: tuple[int, int]) -> None:
        first, last = piece
        transposed = matrix.rows(first, last).T
        for part, out in zip(parts, found, strict=True):
            columns = part @ transposed
            out[:, first:last] = columns if bias is None else columns + bias[first:last]

    pieces = list(matrix.pieces())
    for _ in map(work, pieces) if len(pieces) == 1 else pool.map(work, pieces):
        pass
    return found
