"""How much ggml counts the squared error of a weight whose column has an importance: `weigh`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from builders.quantization.kernels.compiled import compiled

Floats = NDArray[np.float32]

_ZERO = np.float32(0)


@compiled
def weigh(runs: Floats, importance: Floats, factor: np.float32, counts: Floats, sums: Floats) -> None:
    """Write the column's importance times sqrt(factor * mean of x² + x²) for each weight x.

    The mean is that of a run of weights: a block in types with several groups in one, a row in the others. The order of
    operations is ggml's, in the functions `quantize_row_*_impl` of its src/ggml-quants.c, so that sums have its bits.

    Args:
        runs: weights [runs, columns of a run], row after row.
        importance: of the columns, one run after the other of a row, [runs of a row, columns of a run].
        factor: 2 or 1, as the type has it.
        counts: receives as many values as there are weights.
        sums: receives the counts of each group together, [runs, groups of a run]. Groups are of one size.
    """
    size = runs.shape[1] // sums.shape[1]
    for number in range(len(runs)):
        weights, count, column = runs[number], counts[number], importance[number % len(importance)]
        total = _ZERO
        for element in range(len(weights)):
            total += weights[element] * weights[element]
        spread = factor * total / np.float32(len(weights))
        for element in range(len(weights)):
            count[element] = column[element] * np.sqrt(spread + weights[element] * weights[element])
        for group in range(sums.shape[1]):
            total = _ZERO
            for element in range(size * group, size * group + size):
                total += count[element]
            sums[number, group] = total
