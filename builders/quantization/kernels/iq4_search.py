"""ggml's search for the scale of 32 weights on the 16 values of IQ4_NL and IQ4_XS, for many at a time: `search_iq4`.

The formulas and their order are those of `quantize_row_iq4_nl_impl` in ggml's src/ggml-quants.c, so that each sum has
the same bits. The nearest of the 16 values is the lowest one plus the steps over all borders that are not above the
weight: comparisons of many weights at a time, where a search for each would branch. A border lies halfway between two
values, and exactly there ggml takes the upper one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from builders.quantization.kernels.compiled import choose, compiled, inlined, load_lanes
from builders.quantization.kernels.one_scale import (
    INVERSE,
    LANES,
    LARGEST,
    LEAST,
    OWN_ROWS,
    SCALE,
    SUM_L2,
    SUM_XL,
    begin,
    find_largest,
    keep_better,
)

Floats = NDArray[np.float32]
Codes = NDArray[np.uint8]

_ZERO, _ONE = np.float32(0), np.float32(1)

# Rows of `lane` after those of `one_scale`: a weight on the trial's grid, and the value nearest to it.
_WANTED, _VALUE = OWN_ROWS, OWN_ROWS + 1
_ROWS = OWN_ROWS + 2


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
        find_largest(weights, lane)
        for place in range(LANES):
            lane[INVERSE, place] = _ONE / (-lane[LARGEST, place] / lowest)
        _sum(weights, own, steps, lane)
        begin(lane)
        for trial in range(-trials, trials + 1):
            for place in range(LANES):
                lane[INVERSE, place] = (np.float32(trial) + lowest) / lane[LARGEST, place]
            _sum(weights, own, steps, lane)
            keep_better(lane)
        for place in range(used):
            found[start + place] = lane[SCALE, place] if abs(lane[LARGEST, place]) >= LEAST else _ZERO


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
def _sum(weights: Floats, counts: Floats, steps: Floats, lane: Floats) -> None:
    """Sum up what the nearest values on a trial's grid make of the weights."""
    for place in range(LANES):
        lane[SUM_XL, place], lane[SUM_L2, place] = _ZERO, _ZERO
    for element in range(len(weights)):
        row, count = weights[element], counts[element]
        for place in range(LANES):
            lane[_WANTED, place] = lane[INVERSE, place] * row[place]
            lane[_VALUE, place] = steps[0, 1]
        for number in range(1, len(steps)):
            border, step = steps[number, 0], steps[number, 1]
            for place in range(LANES):
                lane[_VALUE, place] += choose(lane[_WANTED, place] >= border, step, _ZERO)
        for place in range(LANES):
            value = lane[_VALUE, place]
            product = count[place] * value
            lane[SUM_XL, place] += product * row[place]
            lane[SUM_L2, place] += product * value
