"""`Grid`: how a format stores a block of a row, as `rounding/` sees it."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from builders.quantization.levels import Levels

Floats = NDArray[np.float32]


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
