"""`Grid`: how a format stores a block of a row, as `rounding/` sees it."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


class Levels(NamedTuple):
    """The values that a block's columns may take in each row: scale * level + offset, in float32 and in this order.

    Levels are whole numbers, code + base, or a table's. `shared` columns from the left have the first scale and
    offset, and so on. Compiled code reads this (`kernels/columns.py`), so that types are exact and arrays contiguous.
    """

    scales: Floats  # [groups, rows]
    inverses: Floats  # 1 / scale, and 0 for 0
    offsets: Floats  # [groups, rows]
    shared: int
    bases: Floats  # [rows]
    lowest: np.float32  # the least code
    highest: np.float32
    table: Floats  # levels, ascending; empty where they are whole numbers
    borders: Floats  # halfway between the table's levels


class FittedGrid(Protocol):
    """A block of columns, row by row, whose scales are chosen, and whose codes are not."""

    @property
    def levels(self) -> Levels:
        """The values that its columns may take."""
        ...


class Grid(Protocol):
    """A kind of block. `columns`: its length along a row."""

    @property
    def columns(self) -> int:
        """Elements of a row that share scales."""
        ...

    def fit(self, weights: Floats, importance: Floats) -> FittedGrid:
        """Choose scales for a block of columns.

        Args:
            weights: [rows, columns].
            importance: how much the squared error of each column counts, [columns].
        """
        ...

    def pack(self, fitted: list[Any], codes: NDArray[np.uint8]) -> Any:
        """Return what is stored of a matrix: its fitted blocks from the left, and codes [rows, all columns]."""
        ...
