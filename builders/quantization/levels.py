"""`Levels`: the values that a block's columns may take, as grids make them and compiled loops read them."""

from __future__ import annotations

from typing import NamedTuple

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
