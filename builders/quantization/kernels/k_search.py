"""ggml's search for the scale and the minimum of 32 weights in Q4_K and Q5_K, for many at a time: `search_k`.

The formulas and their order are those of `make_qkx2_quants`, `make_qkx3_quants` and their callers in ggml's
src/ggml-quants.c, so that each sum has the same bits. ggml asks for squared errors there. It weighs that of a weight x
with sqrt(mean of x²) + |x|, or, where its column has an importance, with that times sqrt(2 * mean of x² + x²), the mean
over the whole block. Where a trial is better, its minimum is what the following ones start from.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from builders.quantization.kernels.compiled import choose, compiled, inlined, load_lanes, stored

Floats = NDArray[np.float32]
Codes = NDArray[np.uint8]

LANES = 64
_ZERO, _ONE = np.float32(0), np.float32(1)
_STEEPEST = np.float32(1e30)  # of 1 / scale; beyond, ggml's own arithmetic overflows

# Rows of `lane`: the weights' sums, range and best grid so far; the trial's grid and sums.
_SUM_W, _SUM_X, _LOW, _HIGH, _ERROR, _SCALE = 0, 1, 2, 3, 4, 5
_INVERSE, _SUM_L, _SUM_L2, _SUM_XL, _NEW_SCALE, _NEW_LOW, _NEW_ERROR, _FIRST = 6, 7, 8, 9, 10, 11, 12, 13
_ROWS = 14


@compiled
def search_k(groups: Floats, given: Floats, top: np.float32, widths: Floats, found: Floats) -> None:
    """Find the scales and minima of groups of weights [groups, 32].

    Args:
        groups: the weights.
        given: how much the squared error of each counts, as `weigh` finds it, [groups, 32]; [0, 32]: as ggml has it
            without an importance.
        top: the greatest code.
        widths: of each trial, how much wider than `top` its range of codes is.
        found: receives scales and negated minima [2, groups]. A scale is NaN where float32 is too narrow to compute it.
    """
    count, size = groups.shape
    weights = np.empty((size, LANES), np.float32)
    counts = np.empty((size, LANES), np.float32)
    codes = np.empty((size, LANES), np.float32)
    lane = np.empty((_ROWS, LANES), np.float32)
    for start in range(0, count, LANES):
        used = min(LANES, count - start)
        load_lanes(groups, start, used, weights)
        if len(given) > 0:
            load_lanes(given, start, used, counts)
        else:
            _weigh(weights, counts, lane)
        _sum(weights, counts, lane)
        _widest(weights, counts, top, lane)
        for number in range(len(widths)):
            _try(weights, counts, codes, widths[number] + top, top, lane)
            _keep_better(weights, counts, codes, lane)
        for place in range(used):
            found[0, start + place] = np.nan if lane[_FIRST, place] > _STEEPEST else lane[_SCALE, place]
            found[1, start + place] = -lane[_LOW, place]


@compiled
def codes_of(groups: Floats, scales: Floats, minima: Floats, top: np.float32, codes: Codes) -> None:
    """Write the codes of groups of weights [groups, 32] to `codes`. Scales and negated minima: [groups]."""
    for number in range(len(groups)):
        weights, found, scale, minimum = groups[number], codes[number], scales[number], minima[number]
        for element in range(len(weights)):
            code = np.rint((weights[element] + minimum) / scale)
            found[element] = np.uint8(np.int32(min(max(code, _ZERO), top)))


@inlined
def _weigh(weights: Floats, counts: Floats, lane: Floats) -> None:
    for place in range(LANES):
        lane[_ERROR, place] = _ZERO
    for element in range(len(weights)):
        row = weights[element]
        for place in range(LANES):
            lane[_ERROR, place] += row[place] * row[place]
    for place in range(LANES):
        lane[_ERROR, place] = np.sqrt(lane[_ERROR, place] / np.float32(32))
    for element in range(len(weights)):
        row, count = weights[element], counts[element]
        for place in range(LANES):
            count[place] = lane[_ERROR, place] + abs(row[place])


@inlined
def _sum(weights: Floats, counts: Floats, lane: Floats) -> None:
    for place in range(LANES):
        weight, count = weights[0, place], counts[0, place]
        lane[_LOW, place], lane[_HIGH, place] = weight, weight
        lane[_SUM_W, place], lane[_SUM_X, place] = count, count * weight
    for element in range(1, len(weights)):
        row, count = weights[element], counts[element]
        for place in range(LANES):
            lane[_LOW, place] = stored(min(lane[_LOW, place], row[place]))
            lane[_HIGH, place] = stored(max(lane[_HIGH, place], row[place]))
            lane[_SUM_W, place] += count[place]
            lane[_SUM_X, place] += count[place] * row[place]


@inlined
def _widest(weights: Floats, counts: Floats, top: np.float32, lane: Floats) -> None:
    """The whole range is the first grid, and its error the one to be better than."""
    for place in range(LANES):
        low = min(lane[_LOW, place], _ZERO)
        inverse = top / (lane[_HIGH, place] - low)
        lane[_LOW, place], lane[_INVERSE, place], lane[_FIRST, place] = low, inverse, inverse
        lane[_SCALE, place], lane[_ERROR, place] = _ONE / inverse, _ZERO
    for element in range(len(weights)):
        row, count = weights[element], counts[element]
        for place in range(LANES):
            code = min(max(np.rint(lane[_INVERSE, place] * (row[place] - lane[_LOW, place])), _ZERO), top)
            off = lane[_SCALE, place] * code + lane[_LOW, place] - row[place]
            lane[_ERROR, place] += count[place] * (off * off)


@inlined
def _try(weights: Floats, counts: Floats, codes: Floats, width: np.float32, top: np.float32, lane: Floats) -> None:
    for place in range(LANES):
        lane[_INVERSE, place] = width / (lane[_HIGH, place] - lane[_LOW, place])
        lane[_SUM_L, place], lane[_SUM_L2, place], lane[_SUM_XL, place] = _ZERO, _ZERO, _ZERO
    for element in range(len(weights)):
        row, count, found = weights[element], counts[element], codes[element]
        for place in range(LANES):
            code = min(max(np.rint(lane[_INVERSE, place] * (row[place] - lane[_LOW, place])), _ZERO), top)
            found[place] = code
            product = count[place] * code
            lane[_SUM_L, place] += product
            lane[_SUM_L2, place] += product * code
            lane[_SUM_XL, place] += product * row[place]


@inlined
def _keep_better(weights: Floats, counts: Floats, codes: Floats, lane: Floats) -> None:
    """Fit scale and minimum to the trial's codes, and keep them where their error is smaller."""
    for place in range(LANES):
        sum_w, sum_x, sum_l = lane[_SUM_W, place], lane[_SUM_X, place], lane[_SUM_L, place]
        sum_l2, sum_xl = lane[_SUM_L2, place], lane[_SUM_XL, place]
        determinant = sum_w * sum_l2 - sum_l * sum_l
        low = (sum_l2 * sum_x - sum_l * sum_xl) / determinant
        scale = (sum_w * sum_xl - sum_x * sum_l) / determinant
        lane[_NEW_SCALE, place] = choose(low > _ZERO, sum_xl / sum_l2, scale)
        lane[_NEW_LOW, place] = choose(low > _ZERO, _ZERO, low)
        lane[_INVERSE, place], lane[_NEW_ERROR, place] = determinant, _ZERO
    for element in range(len(weights)):
        row, count, code = weights[element], counts[element], codes[element]
        for place in range(LANES):
            off = lane[_NEW_SCALE, place] * code[place] + lane[_NEW_LOW, place] - row[place]
            lane[_NEW_ERROR, place] += count[place] * (off * off)
    for place in range(LANES):
        error, scale, low = lane[_ERROR, place], lane[_SCALE, place], lane[_LOW, place]
        new_error, new_scale, new_low = lane[_NEW_ERROR, place], lane[_NEW_SCALE, place], lane[_NEW_LOW, place]
        better = (new_error < error) & (lane[_INVERSE, place] > _ZERO)
        lane[_ERROR, place] = stored(choose(better, new_error, error))
        lane[_SCALE, place] = stored(choose(better, new_scale, scale))
        lane[_LOW, place] = stored(choose(better, new_low, low))
