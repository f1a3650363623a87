"""The nearest of all values that a block's column may take, by trying them all."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from builders.quantization.levels import Levels

Floats = NDArray[np.float32]


def nearest(levels: Levels, column: int, weights: Floats) -> tuple[NDArray[np.uint8], Floats]:
    """Return codes and values [rows]; the lowest code of equally near ones."""
    group, codes = column // levels.shared, np.arange(levels.lowest, levels.highest + 1, dtype=np.float32)
    steps = levels.table[:, None] if len(levels.table) else codes[:, None] + levels.bases
    values = levels.scales[group] * steps + levels.offsets[group]
    found = np.abs(values - weights).argmin(axis=0)
    return codes[found].astype(np.uint8), np.take_along_axis(values, found[None], axis=0)[0]
