"""What ggml's searches for one scale a group share: groups lie side by side, and each trial's sums are compared."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from builders.quantization.kernels.compiled import choose, inlined, stored

Floats = NDArray[np.float32]

LANES = 64
LEAST = np.float32(1e-15)  # of a group's largest magnitude; ggml stores smaller ones as zeros
_ZERO = np.float32(0)

# Rows of `lane`: the weight of the largest magnitude; the best scale so far, how good it is and the grid that it was
# found on; a trial's sums (of weights times values, and of squared values) and its grid. A grid is what weights are
# multiplied with before they are rounded. Searches have more rows after these.
LARGEST, SCALE, BEST, BEST_INVERSE, SUM_XL, SUM_L2, INVERSE, OWN_ROWS = 0, 1, 2, 3, 4, 5, 6, 7


@inlined
def find_largest(weights: Floats, lane: Floats) -> None:
    """Find the first weight of the largest magnitude of each group."""
    for place in range(LANES):
        lane[LARGEST, place] = _ZERO
    for element in range(len(weights)):
        row = weights[element]
        for place in range(LANES):
            weight, largest = row[place], lane[LARGEST, place]
            lane[LARGEST, place] = stored(choose(abs(weight) > abs(largest), weight, largest))


@inlined
def begin(lane: Floats) -> None:
    """Fit the scale to the values of the first trial, the one to be better than."""
    for place in range(LANES):
        total = lane[SUM_L2, place]
        scale = choose(total != _ZERO, lane[SUM_XL, place] / total, _ZERO)
        lane[SCALE, place], lane[BEST, place] = scale, scale * lane[SUM_XL, place]
        lane[BEST_INVERSE, place] = lane[INVERSE, place]


@inlined
def keep_better(lane: Floats) -> None:
    """Fit the scale to the trial's values, and keep it where it is better than the best so far."""
    for place in range(LANES):
        sum_xl, sum_l2, best = lane[SUM_XL, place], lane[SUM_L2, place], lane[BEST, place]
        scale = sum_xl / sum_l2
        better = (sum_l2 > _ZERO) & (sum_xl * sum_xl > best * sum_l2)
        lane[SCALE, place] = stored(choose(better, scale, lane[SCALE, place]))
        lane[BEST, place] = stored(choose(better, scale * sum_xl, best))
        lane[BEST_INVERSE, place] = stored(choose(better, lane[INVERSE, place], lane[BEST_INVERSE, place]))
