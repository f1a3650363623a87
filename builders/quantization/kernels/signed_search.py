"""ggml's searches for the scale of a group of weights whose codes have a sign, for many groups at a time.

The formulas and their order are those of `make_qx_quants` (`search_signed`) and of `make_q3_quants` (`search_q3`) in
ggml's src/ggml-quants.c, so that each sum has the same bits. Codes are from -top to top - 1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from builders.quantization.kernels.compiled import choose, compiled, inlined, load_lanes, stored
from builders.quantization.kernels.one_scale import (
    BEST_INVERSE,
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
_MOST = np.float32(4194303)  # that ggml's own way of rounding holds
_STEP = np.float32(0.1)  # from a trial to the next, in codes

# Rows of `lane` after those of `one_scale`, of Q3_K: whether this round has changed a code, whether the last one had,
# and whether ggml would round wrongly.
_CHANGED, _CHANGING, _WILD = OWN_ROWS, OWN_ROWS + 1, OWN_ROWS + 2
_ROWS = OWN_ROWS + 3


@compiled
def search_signed(groups: Floats, given: Floats, top: np.float32, trials: int, found: Floats, inverses: Floats) -> None:
    """Find the scales of groups of weights [groups, elements of one].

    Args:
        groups: the weights.
        given: how much the squared error of each counts, as `groups`; [0, any]: its own square.
        top: the lowest code is its negative, the greatest one less.
        trials: how many wider grids than the weights' range are tried, and how many narrower ones.
        found: receives the scales [groups]; 0 where all weights are next to 0.
        inverses: receives what weights are multiplied with to have the codes that a scale was fitted to, [groups].
    """
    count, size = groups.shape
    weights = np.empty((size, LANES), np.float32)
    squares = np.empty((size, LANES), np.float32)
    lane = np.empty((_ROWS, LANES), np.float32)
    for start in range(0, count, LANES):
        used = min(LANES, count - start)
        _load(groups, start, used, weights, lane)
        if len(given) > 0:
            load_lanes(given, start, used, squares)
        else:
            _square(weights, squares)
        _try(weights, squares, top, top, lane)
        begin(lane)
        for number in range(-trials, trials + 1):
            if number != 0:
                _try(weights, squares, top + _STEP * np.float32(number), top, lane)
                keep_better(lane)
        _store(lane, start, used, found)
        for place in range(used):
            inverses[start + place] = lane[BEST_INVERSE, place]


@compiled
def search_q3(groups: Floats, top: np.float32, rounds: int, found: Floats) -> None:
    """Find the scales [groups] of groups of weights [groups, 16]: codes are changed one by one where that is better.

    Args:
        groups: the weights.
        top: the lowest code is its negative, the greatest one less.
        rounds: how often all weights are gone through, at most.
        found: receives the scales; NaN where ggml rounds what its way of rounding does not hold.
    """
    count, size = groups.shape
    weights = np.empty((size, LANES), np.float32)
    squares = np.empty((size, LANES), np.float32)
    codes = np.empty((size, LANES), np.float32)
    lane = np.empty((_ROWS, LANES), np.float32)
    for start in range(0, count, LANES):
        used = min(LANES, count - start)
        _load(groups, start, used, weights, lane)
        _square(weights, squares)
        _try(weights, squares, top, top, lane)
        _round(weights, codes, top, lane)
        for _ in range(rounds):
            if _change_codes(weights, squares, codes, top, lane) == _ZERO:
                break
        for place in range(LANES):
            total = lane[SUM_L2, place]
            lane[SCALE, place] = choose(total > _ZERO, lane[SUM_XL, place] / total, _ZERO)
        _store(lane, start, used, found)


@compiled
def codes_by_scale(groups: Floats, scales: Floats, top: np.float32, codes: Codes) -> None:
    """Write the codes of groups of weights, counted from -top, to `codes` [groups, elements]. Scales: [groups]."""
    for number in range(len(groups)):
        weights, own, scale = groups[number], codes[number], scales[number]
        for element in range(len(weights)):
            own[element] = np.uint8(np.int32(_nearest(weights[element] / scale, top) + top))


@compiled
def codes_by_inverse(groups: Floats, inverses: Floats, top: np.float32, codes: Codes) -> None:
    """Write the codes that `search_signed` fitted the scales to, as `codes_by_scale` does. Inverses: [groups]."""
    for number in range(len(groups)):
        weights, own, inverse = groups[number], codes[number], inverses[number]
        for element in range(len(weights)):
            own[element] = np.uint8(np.int32(_nearest(inverse * weights[element], top) + top))


@inlined
def _load(groups: Floats, start: int, used: int, weights: Floats, lane: Floats) -> None:
    """Lay groups side by side, and find the first weight of the largest magnitude of each."""
    load_lanes(groups, start, used, weights)
    find_largest(weights, lane)
    for place in range(LANES):
        lane[_WILD, place] = _ZERO


@inlined
def _square(weights: Floats, squares: Floats) -> None:
    for element in range(len(weights)):
        row, square = weights[element], squares[element]
        for place in range(LANES):
            square[place] = row[place] * row[place]


@inlined
def _try(weights: Floats, squares: Floats, width: np.float32, top: np.float32, lane: Floats) -> None:
    """Sum up what codes on a grid with `width` codes to one side make of the weights."""
    for place in range(LANES):
        lane[INVERSE, place] = -width / lane[LARGEST, place]
        lane[SUM_XL, place], lane[SUM_L2, place] = _ZERO, _ZERO
    for element in range(len(weights)):
        row, square = weights[element], squares[element]
        for place in range(LANES):
            code = _nearest(lane[INVERSE, place] * row[place], top)
            lane[SUM_XL, place] += square[place] * row[place] * code
            lane[SUM_L2, place] += square[place] * code * code


@inlined
def _round(weights: Floats, codes: Floats, top: np.float32, lane: Floats) -> None:
    """Write the codes of a trial's grid; every group may be changed from now on."""
    for element in range(len(weights)):
        for place in range(LANES):
            codes[element, place] = _nearest(lane[INVERSE, place] * weights[element, place], top)
    for place in range(LANES):
        lane[_CHANGING, place] = _ONE


@inlined
def _change_codes(weights: Floats, squares: Floats, codes: Floats, top: np.float32, lane: Floats) -> np.float32:
    """Go through the weights once, in groups that the last round has changed. Returns how many were changed now."""
    for place in range(LANES):
        lane[_CHANGED, place] = _ZERO
    for element in range(len(weights)):
        _change(weights[element], squares[element], codes[element], top, lane)
    total = _ZERO
    for place in range(LANES):
        lane[_CHANGING, place] = lane[_CHANGING, place] * lane[_CHANGED, place]
        total += lane[_CHANGING, place]
    return total


@inlined
def _change(weights: Floats, squares: Floats, codes: Floats, top: np.float32, lane: Floats) -> None:
    """Change one weight of each group to the code that fits the others' scale, where that is better."""
    for place in range(LANES):
        weight, square, code = weights[place], squares[place], codes[place]
        sum_xl, sum_l2 = lane[SUM_XL, place], lane[SUM_L2, place]
        rest_xl, rest_l2 = sum_xl - square * weight * code, sum_l2 - square * code * code
        wanted = weight * rest_l2 / rest_xl
        fresh = _nearest(wanted, top)
        new_xl, new_l2 = rest_xl + square * weight * fresh, rest_l2 + square * fresh * fresh
        is_wild = (rest_xl > _ZERO) & (abs(wanted) > _MOST) & (lane[_CHANGING, place] > _ZERO)
        lane[_WILD, place] = stored(choose(is_wild, _ONE, lane[_WILD, place]))
        better = (rest_xl > _ZERO) & (fresh != code) & (new_l2 > _ZERO) & (lane[_CHANGING, place] > _ZERO)
        better = better & (new_xl * new_xl * sum_l2 > sum_xl * sum_xl * new_l2)
        codes[place] = stored(choose(better, fresh, code))
        lane[SUM_XL, place] = stored(choose(better, new_xl, sum_xl))
        lane[SUM_L2, place] = stored(choose(better, new_l2, sum_l2))
        lane[_CHANGED, place] = stored(choose(better, _ONE, lane[_CHANGED, place]))


@inlined
def _store(lane: Floats, start: int, used: int, found: Floats) -> None:
    for place in range(used):
        is_zero = abs(lane[LARGEST, place]) < LEAST
        scale = np.float32(np.nan) if lane[_WILD, place] > _ZERO else lane[SCALE, place]
        found[start + place] = _ZERO if is_zero else scale


@inlined
def _nearest(value: np.float32, top: np.float32) -> np.float32:
    """Return the code nearest to a value on the grid."""
    return min(max(np.rint(value), -top), top - _ONE)
