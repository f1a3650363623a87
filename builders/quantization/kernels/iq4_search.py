"""ggml's search for the scale of 32 weights on the 16 values of IQ4_NL and IQ4_XS, for many at a time: `search_iq4`.

The formulas and their order are those of `quantize_row_iq4_nl_impl` in ggml's src/ggml-quants.c, so that each sum has
the same bits. The nearest of the 16 values is the lowest one plus the steps over all borders that are not above the
weight: comparisons of many weights at a time, where a search for each would branch. A border lies halfway between two
values, and exactly there ggml takes the upper one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from builders.quantization.kernels.compiled import choose, compiled, inlined, load_lanes, stored

Floats = NDArray[np.float32]
Codes = NDArray[np.uint8]

LANES = 64
_ZERO, _ONE = np.float32(0), np.float32(1)
_LEAST = np.float32(1e-15)  # of a group's largest magnitude; ggml stores smaller ones as zeros

# Rows of `lane`: the weight of the largest magnitude; the best scale so far and how good it is; a trial's grid and
# sums; a weight on that grid, and the value nearest to it.
_LARGEST, _SCALE, _BEST, _INVERSE, _SUM_XQ, _SUM_Q2 = 0, 1, 2, 3, 4, 5
_WANTED, _VALUE = 6, 7
_ROWS = 8


@compiled
def search_iq4(groups: Floats, counts: Floats, steps: Floats, trials: int, found: Floats) -> None:
    """Find the scales of groups of weights [groups, 32].

    Args:
        groups: the weights.
        counts: how much the squared error of each counts, [groups, 32].
        steps: [16, 2]: of each of the 16 values the border below it, and how far it is above the value before it. The
            first has no border, and is itself.
        trials: how many wider grids than the weights' range are tried, and how many narrower ones.
        found: receives the scales [groups]; 0 where all weights are next to 0.
    """
    count, size = groups.shape
    weights = np.empty((size, LANES), np.float32)
    own = np.empty((size, LANES), np.float32)
    lane = np.empty((_ROWS, LANES), np.float32)
    lowest = steps[0, 1]
    for start in range(0, count, LANES):
        used = min(LANES, count - start)
        load_lanes(groups, start, used, weights)
        load_lanes(counts, start, used, own)
        _find_largest(weights, lane)
        for place in range(LANES):
            lane[_INVERSE, place] = _ONE / (-lane[_LARGEST, place] / lowest)
        _sum(weights, own, steps, lane)
        for place in range(LANES):
            scale = lane[_SUM_XQ, place] / lane[_SUM_Q2, place]
            lane[_SCALE, place], lane[_BEST, place] = scale, scale * lane[_SUM_XQ, place]
        for trial in range(-trials, trials + 1):
            for place in range(LANES):
                lane[_INVERSE, place] = (np.float32(trial) + lowest) / lane[_LARGEST, place]
            _sum(weights, own, steps, lane)
            _keep_better(lane)
        for place in range(used):
            found[start + place] = lane[_SCALE, place] if abs(lane[_LARGEST, place]) >= _LEAST else _ZERO


@compiled
def iq4_codes(groups: Floats, inverses: Floats, steps: Floats, codes: Codes) -> None:
    """Write the codes of groups of weights [groups, 32] on grids of 1 / inverses [groups]."""
    for number in range(len(groups)):
        weights, own, inverse = groups[number], codes[number], inverses[number]
        own[:] = np.uint8(0)
        for place in range(1, len(steps)):
            border = steps[place, 0]
            for element in range(len(weights)):
                own[element] += np.uint8(inverse * weights[element] >= border)


@inlined
def _find_largest(weights: Floats, lane: Floats) -> None:
    """Find the first weight of the largest magnitude of each group."""
    for place in range(LANES):
        lane[_LARGEST, place] = _ZERO
    for element in range(len(weights)):
        row = weights[element]
        for place in range(LANES):
            weight, largest = row[place], lane[_LARGEST, place]
            lane[_LARGEST, place] = stored(choose(abs(weight) > abs(largest), weight, largest))


@inlined
def _sum(weights: Floats, counts: Floats, steps: Floats, lane: Floats) -> None:
    """Sum up what the nearest values on a trial's grid make of the weights."""
    for place in range(LANES):
        lane[_SUM_XQ, place], lane[_SUM_Q2, place] = _ZERO, _ZERO
    for element in range(len(weights)):
        row, count = weights[element], counts[element]
        for place in range(LANES):
            lane[_WANTED, place] = lane[_INVERSE, place] * row[place]
            lane[_VALUE, place] = steps[0, 1]
        for number in range(1, len(steps)):
            border, step = steps[number, 0], steps[number, 1]
            for place in range(LANES):
                lane[_VALUE, place] += choose(lane[_WANTED, place] >= border, step, _ZERO)
        for place in range(LANES):
            value = lane[_VALUE, place]
            product = count[place] * value
            lane[_SUM_XQ, place] += product * row[place]
            lane[_SUM_Q2, place] += product * value


@inlined
def _keep_better(lane: Floats) -> None:
    for place in range(LANES):
        along, square, best = lane[_SUM_XQ, place], lane[_SUM_Q2, place], lane[_BEST, place]
        scale = along / square
        better = (square > _ZERO) & (along * along > best * square)
        lane[_SCALE, place] = stored(choose(better, scale, lane[_SCALE, place]))
        lane[_BEST, place] = stored(choose(better, scale * along, best))
