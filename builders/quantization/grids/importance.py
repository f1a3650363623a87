"""How much ggml counts the squared error of each weight where columns have an importance: `counts_of`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def counts_of(runs: Floats, importance: Floats, *, factor: int, group: int) -> tuple[Floats, Floats]:
    """Return what a weight's squared error counts: see `kernels.weigh`.

    Args:
        runs: weights [runs, columns of a run], row after row.
        importance: of a row's columns, [columns].
        factor: of the mean square, as the type has it.
        group: how many weights have a scale.

    Returns:
        a count for each weight, [groups, weights of one], and their sum in each group of a run, [runs, groups of one].
    """
    from builders.quantization.kernels.weigh import weigh

    length = runs.shape[1]
    counts, sums = np.empty_like(runs), np.empty((len(runs), length // group), np.float32)
    columns = np.ascontiguousarray(importance, np.float32).reshape(-1, length)
    weigh(runs, columns, np.float32(factor), counts, sums)
    return counts.reshape(-1, group), sums
