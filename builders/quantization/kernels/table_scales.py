"""The scale of least weighted squared error of each block whose values are a table's, among a few: `search_scales`.

For the values t that a trial's codes have the scale of least error is <w, t> / <t, t> in the scalar product that the
importance defines: the trial with the greatest <w, t>² / <t, t> wins, as in `block_search`, whose tiles these are.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from builders.quantization.kernels.block_search import LANES, inverse_of, load_tile
from builders.quantization.kernels.compiled import choose, compiled, inlined, stored

Floats = NDArray[np.float32]

_ZERO, _HALF = np.float32(0), np.float32(0.5)
_TINY = np.finfo(np.float32).tiny

# Rows of `lane`, each with a value of every lane: the largest magnitude, the trial, its sums, and the best so far.
_LARGEST, _INVERSE, _ALONG, _SQUARE, _GAIN, _BEST = 0, 1, 2, 3, 4, 5
_ROWS = 6


@compiled
def search_scales(blocks: Floats, importance: Floats, trials: Floats, table: Floats, found: Floats) -> None:
    """Find the best of the trials of each block.

    Args:
        blocks: the weights [blocks, elements], row after row.
        importance: of the squared error of each column: see `block_search.lanes_of`.
        trials: where the largest weight of a block is laid, relative to the table's end, [trials].
        table: its values, ascending.
        found: receives the scales [blocks], not negative: 0 where all that counts is 0, NaN where a weight is infinite.
    """
    count, size = blocks.shape
    period = importance.shape[1] - LANES
    reach = max(abs(table[0]), abs(table[-1]))
    tile = np.empty((size, LANES), np.float32)
    value = np.empty(LANES, np.float32)
    lane = np.empty((_ROWS, LANES), np.float32)
    for first in range(0, count, LANES):
        used = min(LANES, count - first)
        start = first % period
        load_tile(blocks, first, used, tile)
        _prepare(tile, importance, start, lane)
        for number in range(len(trials)):
            _propose(trials[number] * reach, lane)
            _measure(tile, importance, start, table, value, lane)
            _keep_better(lane)
        for place in range(used):
            found[first + place] = lane[_BEST, place]


@inlined
def _prepare(tile: Floats, importance: Floats, start: int, lane: Floats) -> None:
    for place in range(LANES):
        lane[_LARGEST, place] = _ZERO
    for element in range(len(tile)):
        weights, counts = tile[element], importance[element, start : start + LANES]
        for place in range(LANES):  # what counts for nothing may be as large as it is
            size = choose(counts[place] > _ZERO, abs(weights[place]), _ZERO)
            lane[_LARGEST, place] = stored(max(lane[_LARGEST, place], size))
    for place in range(LANES):
        nothing = lane[_LARGEST, place] * _ZERO  # NaN where a weight is infinite: no trial is better than that
        lane[_GAIN, place] = lane[_BEST, place] = nothing


@inlined
def _propose(reach: np.float32, lane: Floats) -> None:
    for place in range(LANES):
        inverse = reach / lane[_LARGEST, place]
        lane[_INVERSE, place] = choose(lane[_LARGEST, place] >= _TINY, inverse, _ZERO)


@inlined
def _measure(tile: Floats, importance: Floats, start: int, table: Floats, value: Floats, lane: Floats) -> None:
    """Sum <w, t> and <t, t> of the trial."""
    for place in range(LANES):
        lane[_ALONG, place] = lane[_SQUARE, place] = _ZERO
    for element in range(len(tile)):
        weights, counts = tile[element], importance[element, start : start + LANES]
        for place in range(LANES):
            value[place] = table[0]
        for number in range(1, len(table)):
            border, above = (table[number - 1] + table[number]) * _HALF, table[number]
            for place in range(LANES):
                over = weights[place] * lane[_INVERSE, place] > border
                value[place] = stored(choose(over, above, value[place]))
        for place in range(LANES):
            counted = value[place] * counts[place]
            lane[_ALONG, place] += counted * weights[place]
            lane[_SQUARE, place] += counted * value[place]


@inlined
def _keep_better(lane: Floats) -> None:
    for place in range(LANES):
        along, best_gain, best = lane[_ALONG, place], lane[_GAIN, place], lane[_BEST, place]
        scale = along * inverse_of(lane[_SQUARE, place])
        gain = along * scale
        better = (gain > best_gain) and (scale > _ZERO)
        lane[_GAIN, place] = stored(choose(better, gain, best_gain))
        lane[_BEST, place] = stored(choose(better, scale, best))
