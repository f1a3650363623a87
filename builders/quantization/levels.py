"""`Levels`: the values that a block's columns may take, as grids make them and compiled loops read them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

# What compiled code is given: numba writes the types of arguments to its cache, and a class of our own could not be
# found there any more once it is moved.
LevelParts = tuple[Floats, Floats, Floats, int, Floats, np.float32, np.float32, Floats, Floats]


@dataclass(frozen=True)
class Levels:
    """The values that a block's columns may take in each row: scale * level + offset, in float32 and in this order.

    Levels are whole numbers, code + base, or a table's. `shared` columns from the left have the first scale and
    offset, and so on. Compiled code reads the parts (`kernels/sweep.py`): types are exact and arrays contiguous.
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

    @property
    def parts(self) -> LevelParts:
        """All of it, in order."""
        groups = (self.scales, self.inverses, self.offsets, self.shared)
        return (*groups, self.bases, self.lowest, self.highest, self.table, self.borders)
