"""Tables of values that some rows share, and a scale for each row: weighted k-means in one dimension.

Rows are divided by their scales and counted in bins. Of all divisions of coarse bins into as many parts as the table
has values, the best is found by dynamic programming; in fine bins its means are then moved by Lloyd's algorithm (Least
Squares Quantization in PCM, 1982) until nothing changes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from builders.quantization.kernels.compiled import compiled, inlined

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Codes = NDArray[np.uint8]
Ends = NDArray[np.int64]

_BINS = 4096
_STEPS = 200  # at most, of Lloyd's algorithm
_COARSE = 4  # fine bins in a coarse one
_ZERO, _ONE = np.float32(0), np.float32(1)


@compiled
def fit_table(weights: Floats, importance: Floats, scales: Floats, known: bool, table: Floats) -> None:
    """Write the best table found for rows [rows, columns], ascending.

    Args:
        weights: the rows, or the blocks of rows one after the other.
        importance: how much the squared error of each column counts, [n, columns]: of n rows, and again.
        scales: of the rows, [rows].
        known: whether the table is nearly right already, as after a change of scales: then it is moved only.
        table: receives the values.
    """
    largest = _ZERO
    for row in range(len(weights)):
        inverse = _inverse(scales[row])
        for column in range(weights.shape[1]):
            largest = max(largest, abs(weights[row, column]) * inverse)
    if largest == _ZERO:
        table[:] = _ZERO
        return
    half = np.float32(_BINS / 2 - 1) / largest
    mass, moment = np.zeros(_BINS + 1), np.zeros(_BINS + 1)
    for row in range(len(weights)):
        inverse, counts = _inverse(scales[row]), np.float64(scales[row]) * np.float64(scales[row])
        columns = importance[row % len(importance)]
        for column in range(weights.shape[1]):
            value = weights[row, column] * inverse
            place = np.int64(value * half + np.float32(_BINS / 2)) + 1
            counted = columns[column] * counts
            mass[place] += counted
            moment[place] += counted * value
    for before in range(_BINS):
        mass[before + 1] += mass[before]  # from here on sums of all bins before
        moment[before + 1] += moment[before]
    found = table.astype(np.float64) if known else np.zeros(len(table))
    if known:
        ends = np.zeros(len(table) + 1, np.int64)
        ends[len(table)] = _BINS
        _move_ends(found, np.float64(half), ends)
    else:
        ends = _best_ends(mass[::_COARSE].copy(), moment[::_COARSE].copy(), len(table))
    _lloyd(mass, moment, ends, found, np.float64(half))
    for number in range(len(table)):
        table[number] = np.float32(found[number])


@inlined
def _best_ends(mass: Doubles, moment: Doubles, count: int) -> Ends:
    """Return where the parts end that coarse bins are best divided into, in fine bins, 0 first.

    What the error falls by is the sum over parts of moment² / mass. A part of the best division never begins before
    that of a division into one part less, or after that of more bins (Knuth, 1971): few places have to be tried.
    """
    bins = len(mass) - 1
    gains, before = np.zeros(bins + 1), np.zeros(bins + 1)
    starts = np.zeros((count + 1, bins + 2), np.int64)
    for end in range(bins + 1):
        gains[end] = _gain(mass, moment, 0, end)
    for parts in range(2, count + 1):
        before[:] = gains
        starts[parts, bins + 1] = bins
        for end in range(bins, -1, -1):
            best, place = -1.0, 0
            for start in range(starts[parts - 1, end], min(starts[parts, end + 1], end) + 1):
                gain = before[start] + _gain(mass, moment, start, end)
                if gain > best:
                    best, place = gain, start
            gains[end], starts[parts, end] = best, place
    ends = np.zeros(count + 1, np.int64)
    ends[count] = bins
    for parts in range(count, 0, -1):
        ends[parts - 1] = starts[parts, ends[parts]]
    return ends * _COARSE


@inlined
def _gain(mass: Doubles, moment: Doubles, start: int, end: int) -> float:
    own, along = mass[end] - mass[start], moment[end] - moment[start]
    return along * along / own if own > 0.0 else 0.0


@inlined
def _lloyd(mass: Doubles, moment: Doubles, ends: Ends, found: Doubles, half: float) -> None:
    """Move values to the means of what is nearest to them until nothing changes."""
    count = len(found)
    for _ in range(_STEPS):
        for number in range(count):
            own = mass[ends[number + 1]] - mass[ends[number]]
            if own > 0.0:
                found[number] = (moment[ends[number + 1]] - moment[ends[number]]) / own
            else:  # no weight: anywhere between its neighbours
                found[number] = (ends[number] - _BINS / 2) / half
        if not _move_ends(found, half, ends):
            break


@inlined
def _move_ends(found: Doubles, half: float, ends: Ends) -> bool:
    """Lay the ends of parts halfway between values. Returns whether one has moved."""
    changed = False
    for number in range(1, len(found)):
        middle = (found[number - 1] + found[number]) * 0.5
        end = min(max(np.int64(middle * half + _BINS / 2 + 0.5), ends[number - 1]), _BINS)
        changed = changed or end != ends[number]
        ends[number] = end
    return changed


@compiled
def assign_codes(weights: Floats, scales: Floats, table: Floats, codes: Codes) -> None:
    """Write the codes [rows, columns] of the nearest values to rows with given scales [rows]."""
    columns = weights.shape[1]
    place, value = np.empty(columns, np.float32), np.empty(columns, np.float32)
    for row in range(len(weights)):
        own, inverse = weights[row], _inverse(scales[row])
        for column in range(columns):
            value[column] = own[column] * inverse
            place[column] = _ZERO
        for number in range(1, len(table)):
            border = (table[number - 1] + table[number]) * np.float32(0.5)
            for column in range(columns):
                place[column] += _ONE if value[column] > border else _ZERO
        for column in range(columns):
            codes[row, column] = np.uint8(np.int32(place[column]))


@compiled
def refit_scales(weights: Floats, importance: Floats, table: Floats, codes: Codes, scales: Floats) -> None:
    """Write the scales [rows] that fit codes best: Σ h w t / Σ h t², and 0 where all values are 0."""
    for row in range(len(weights)):
        along, square = 0.0, 0.0
        for column in range(weights.shape[1]):
            value = table[codes[row, column]]
            counted = importance[column] * value
            along += counted * weights[row, column]
            square += counted * value
        scales[row] = np.float32(along / square) if square > 0.0 else _ZERO


@inlined
def _inverse(value: np.float32) -> np.float32:
    return _ONE / value if value > _ZERO else _ZERO
