"""How sure a mean over tokens is: its standard error, where neighbouring tokens are correlated.

A hard passage makes a bundle err at many tokens in a row, so that tokens are no independent samples: their standard
error would be too small. Blocks of neighbours are: a window is cut into blocks of `BLOCK` tokens, and what varies
between blocks counts. Longer ones change nothing more (measured: docs/validation.md). The estimate is that of a ratio
of sums over clusters of unequal size (Cochran, Sampling Techniques, 3rd ed., eq. 6.13, without the finite population's
correction): it also holds where only some tokens of a block are of the kind that is averaged. With blocks of equal size
it is the standard error of the mean of their means.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BLOCK = 64  # tokens


def block_numbers(length: int) -> NDArray[np.int64]:
    """Return the number of the block that each token of one window belongs to, from 0. No block is under half as long.

    A rest at the window's end belongs to the last block.
    """
    return np.minimum(np.arange(length) // BLOCK, max(0, (length + BLOCK // 2) // BLOCK - 1))


def standard_error(values: NDArray[np.float64], blocks: NDArray[np.int64]) -> float | None:
    """Return the standard error of the mean of `values` [N] in `blocks` [N]; None where all are in one block.

    Infinite where a value is.
    """
    numbers = np.unique(blocks, return_inverse=True)[1]
    sizes = np.bincount(numbers)
    if len(sizes) < 2:
        return None
    mean = values.mean()
    if not np.isfinite(mean):
        return float("inf")
    excess = np.bincount(numbers, weights=values - mean)
    return float(np.sqrt(len(sizes) / (len(sizes) - 1) * (excess**2).sum()) / len(values))
