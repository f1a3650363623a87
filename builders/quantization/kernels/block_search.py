"""The scale and the zero point of least weighted squared error of each block, among a few: `search`.

For the codes c = code - zero point of a trial the scale of least error is <w, c> / <c, c> in the scalar product that
the importance defines, and that error is |w|² - <w, c>² / <c, c>: the trial with the greatest <w, c>² / <c, c> wins,
and the first of equal ones.

`LANES` blocks are worked on at a time, as [elements, lanes] in the core's nearest cache: each loop over lanes becomes
vector instructions, and a sum over a block's elements keeps their order.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from builders.quantization.kernels.compiled import choose, compiled, inlined, stored

Floats = NDArray[np.float32]

LANES = 64
_ZERO, _HALF, _ONE = np.float32(0), np.float32(0.5), np.float32(1)
_TINY = np.finfo(np.float32).tiny

# Rows of `lane`, each with a value of every lane: the block's range, the trial, its sums, and the best trial so far.
_LOW, _HIGH, _PLAIN = 0, 1, 2
_INVERSE, _ZERO_POINT, _LEAST, _MOST = 3, 4, 5, 6
_ALONG, _SQUARE = 7, 8
_GAIN, _BEST_SCALE, _BEST_ZERO, _BEST_WIDTH = 9, 10, 11, 12
_ROWS = 13


def lanes_of(importance: Floats, size: int) -> Floats:
    """Return the importance of a row's columns as `search` reads it: [elements, blocks of a row + LANES]."""
    blocks = importance.astype(np.float32).reshape(-1, size)
    return np.ascontiguousarray(blocks[np.arange(len(blocks) + LANES) % len(blocks)].T)


@compiled
def search(blocks: Floats, importance: Floats, trials: Floats, top: np.float32, centred: bool, found: Floats) -> None:
    """Find the best of the trials of each block.

    Args:
        blocks: the weights [blocks, elements], row after row.
        importance: of the squared error of each column: see `lanes_of`.
        trials: [trials, 2]: the width of the grid relative to the block's range, 0 included; and the move of the zero
            point. A width of 0 stands for the best width so far.
        top: the greatest code.
        centred: the middle of the grid is laid on the middle of the block's range. Otherwise the zero point is where 0
            is in the block's own range, whatever the width, and the error of a block is 0 before the first trial.
        found: receives the scales and the zero points [2, blocks]. A scale is NaN where a range is infinite.
    """
    count, size = blocks.shape
    period = importance.shape[1] - LANES
    tile = np.empty((size, LANES), np.float32)
    weighted = np.empty((size, LANES), np.float32)
    lane = np.empty((_ROWS, LANES), np.float32)
    for first in range(0, count, LANES):
        used = min(LANES, count - first)
        start = first % period
        load_tile(blocks, first, used, tile)
        _weigh(tile, importance, start, weighted)
        _prepare(tile, top, centred, lane)
        for number in range(len(trials)):
            _propose(trials[number, 0], trials[number, 1], top, centred, lane)
            _measure(tile, weighted, importance, start, lane)
            _keep_better(trials[number, 0], lane)
        for place in range(used):
            found[0, first + place] = lane[_BEST_SCALE, place]
            found[1, first + place] = lane[_BEST_ZERO, place]


@inlined
def load_tile(blocks: Floats, first: int, used: int, tile: Floats) -> None:
    """Lay blocks [blocks, elements] from `first` on side by side, [elements, lanes]; zeros fill up."""
    for place in range(used):
        block = blocks[first + place]
        for element in range(len(tile)):
            tile[element, place] = block[element]
    for place in range(used, LANES):
        for element in range(len(tile)):
            tile[element, place] = _ZERO


@inlined
def _weigh(tile: Floats, importance: Floats, start: int, weighted: Floats) -> None:
    for element in range(len(tile)):
        weights, products, counts = tile[element], weighted[element], importance[element, start : start + LANES]
        for place in range(LANES):
            products[place] = weights[place] * counts[place]


@inlined
def _prepare(tile: Floats, top: np.float32, centred: bool, lane: Floats) -> None:
    for place in range(LANES):
        lane[_LOW, place] = lane[_HIGH, place] = _ZERO
    for element in range(len(tile)):
        weights = tile[element]
        for place in range(LANES):
            lane[_LOW, place] = stored(min(lane[_LOW, place], weights[place]))
            lane[_HIGH, place] = stored(max(lane[_HIGH, place], weights[place]))
    for place in range(LANES):
        spread = lane[_HIGH, place] - lane[_LOW, place]
        nothing = spread * _ZERO  # NaN where the range is infinite: no trial is better than that
        lane[_PLAIN, place] = inverse_of(spread / top)
        lane[_GAIN, place] = nothing - (_ONE if centred else _ZERO)
        lane[_BEST_SCALE, place], lane[_BEST_ZERO, place] = nothing, _ZERO
        lane[_BEST_WIDTH, place] = _ONE


@inlined
def _propose(width: np.float32, shift: np.float32, top: np.float32, centred: bool, lane: Floats) -> None:
    if centred:
        for place in range(LANES):
            low, high = lane[_LOW, place], lane[_HIGH, place]
            lane[_INVERSE, place] = inverse_of((high - low) * width)
            lane[_ZERO_POINT, place] = top * _HALF - (high + low) * _HALF * lane[_INVERSE, place]
    else:
        for place in range(LANES):
            plain = lane[_PLAIN, place]
            lane[_INVERSE, place] = plain / choose(width > _ZERO, width, lane[_BEST_WIDTH, place])
            lane[_ZERO_POINT, place] = -lane[_LOW, place] * plain
    for place in range(LANES):
        zero = min(max(np.rint(lane[_ZERO_POINT, place]) + shift, _ZERO), top)
        lane[_ZERO_POINT, place] = zero
        lane[_LEAST, place], lane[_MOST, place] = -zero, top - zero


@inlined
def _measure(tile: Floats, weighted: Floats, importance: Floats, start: int, lane: Floats) -> None:
    """Sum <w, c> and <c, c> of the trial."""
    for place in range(LANES):
        lane[_ALONG, place] = lane[_SQUARE, place] = _ZERO
    for element in range(len(tile)):
        weights, products, counts = tile[element], weighted[element], importance[element, start : start + LANES]
        for place in range(LANES):
            code = np.rint(weights[place] * lane[_INVERSE, place])
            code = min(max(code, lane[_LEAST, place]), lane[_MOST, place])
            lane[_ALONG, place] += code * products[place]
            lane[_SQUARE, place] += code * code * counts[place]


@inlined
def _keep_better(width: np.float32, lane: Floats) -> None:
    for place in range(LANES):
        along, zero = lane[_ALONG, place], lane[_ZERO_POINT, place]
        best_gain, best_scale = lane[_GAIN, place], lane[_BEST_SCALE, place]
        best_zero, best_width = lane[_BEST_ZERO, place], lane[_BEST_WIDTH, place]
        scale = along * inverse_of(lane[_SQUARE, place])
        gain = along * scale
        better = gain > best_gain
        lane[_GAIN, place] = stored(choose(better, gain, best_gain))
        lane[_BEST_SCALE, place] = stored(choose(better, scale, best_scale))
        lane[_BEST_ZERO, place] = stored(choose(better, zero, best_zero))
        lane[_BEST_WIDTH, place] = stored(choose(better and width > _ZERO, width, best_width))


@inlined
def inverse_of(value: np.float32) -> np.float32:
    """Return 1 / x, and 0 where x is too small to have a finite inverse."""
    inverse = _ONE / value
    return choose(value >= _TINY, inverse, _ZERO)
