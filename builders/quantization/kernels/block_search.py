"""The scale and the zero point of least weighted squared error of each block, among a few: `search`, `round_blocks`.

For the codes c = code - zero point of a trial the scale of least error is <w, c> / <c, c> in the scalar product that
the importance defines, and that error is |w|² - <w, c>² / <c, c>: the trial with the greatest <w, c>² / <c, c> wins,
and the first of equal ones.

`LANES` blocks are worked on at a time, as [elements, lanes] in the core's nearest cache: each loop over lanes becomes
vector instructions, and a sum over a block's elements keeps their order. Four elements a loop spare loads and stores of
the sums; so blocks have a multiple of 8 elements. Weights are read once, from float32 or straight from a checkpoint's
bfloat16, and leave as codes, in 4 bits or in 8: nothing between the two is in memory.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from builders.quantization.kernels.compiled import choose, compiled, inlined, stored, transpose_words

Floats = NDArray[np.float32]

LANES = 64
Halves = NDArray[np.uint16]
Words = NDArray[np.uint32]
Bytes = NDArray[np.uint8]
_ZERO, _HALF, _ONE = np.float32(0), np.float32(0.5), np.float32(1)
_TINY = np.finfo(np.float32).tiny
_SIGN, _MAGNITUDE = np.uint32(0x80000000), np.uint32(0x7FFFFFFF)
_UPPER, _16 = np.uint32(0xFFFF0000), np.uint32(16)

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
        _find_best(tile, importance, start, weighted, trials, top, centred, lane)
        for place in range(used):
            found[0, first + place] = lane[_BEST_SCALE, place]
            found[1, first + place] = lane[_BEST_ZERO, place]


@compiled
def round_blocks(  # noqa: PLR0913, PLR0917 - what is read, how, and what is written
    words: Words,
    importance: Floats,
    trials: Floats,
    top: np.float32,
    centred: bool,
    scales: Halves,
    zeros: Bytes,
    codes: Halves,
) -> tuple[bool, np.uint32]:
    """Search each block's scale and zero point as `search` does, and round its weights to the nearest values.

    Args:
        words: the weights, row after row: float32's bits [blocks, elements], or two bfloat16 in each,
            [blocks, elements / 2].
        importance: as `search` has it, or [elements, 0] where all weights count the same.
        trials: as `search` has it; none where there are no zero points: then the scale is the one that lays the
            weight of largest magnitude on the least code, the zero point is the middle, and `zeros` stays as it is.
        top: the greatest code.
        centred: as `search` has it.
        scales: receives float16's bits [blocks].
        zeros: receives the zero points [blocks].
        codes: receives the codes [blocks, n], equally many in each, the first in the lowest bits.

    Returns whether all weights are finite, and the bits of the largest magnitude of a scale in float32: those of a
    number that is not less than 65520 where a scale is too large for float16.
    """
    size, width = len(importance), codes.shape[1]
    tile = np.empty((size, LANES), np.float32)
    weighted = np.empty((size, LANES), np.float32)
    lane = np.empty((_ROWS, LANES), np.float32)
    loaded = np.empty((size, LANES), np.uint32)
    half = np.empty(LANES, np.uint32)
    packed = np.empty((width, LANES), np.float32)
    exponents, largest = np.zeros(LANES, np.uint32), np.zeros(LANES, np.uint32)
    for first in range(0, len(words), LANES):
        used = min(LANES, len(words) - first)
        _load_words(words, first, used, loaded, tile, exponents)
        if len(trials):
            start = first % max(importance.shape[1] - LANES, 1)
            _find_best(tile, importance, start, weighted, trials, top, centred, lane)
        else:
            _lay_largest(tile, top, lane)
        _round_scales(lane, half, largest)
        _round_weights(tile, lane, top, packed)
        for place in range(used):
            scales[first + place] = np.uint16(half[place])
            if len(trials):
                zeros[first + place] = np.uint8(np.int32(lane[_BEST_ZERO, place]))
            for number in range(width):
                codes[first + place, number] = np.uint16(np.int32(packed[number, place]))
    refused, greatest = np.uint32(0), np.uint32(0)
    for place in range(LANES):
        refused = np.uint32(refused | exponents[place])
        greatest = max(greatest, largest[place])
    return (refused & np.uint32(0x80008000)) == 0, greatest


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
def _load_words(words: Words, first: int, used: int, loaded: Words, tile: Floats, exponents: Words) -> None:
    """Lay blocks on side by side as `load_tile` does.

    An exponent of ones, NaN's and infinity's, makes a sum carry into the place of the sign: `exponents` keeps it.
    """
    count, bits = words.shape[1], tile.view(np.uint32)
    _lay_words(words, first, used, loaded)
    if count == len(tile):
        for number in range(count):
            word, own = loaded[number], bits[number]
            for place in range(LANES):
                own[place] = word[place]
                above = np.uint32((word[place] & _MAGNITUDE) + np.uint32(0x00800000))
                exponents[place] = exponents[place] | np.uint32(above & _SIGN)
        return
    for number in range(count):
        word, even, odd = loaded[number], bits[2 * number], bits[2 * number + 1]
        for place in range(LANES):
            even[place] = np.uint32(word[place] << _16)
            odd[place] = np.uint32(word[place] & _UPPER)
            above = np.uint32((word[place] & np.uint32(0x7FFF7FFF)) + np.uint32(0x00800080))
            exponents[place] = exponents[place] | above


@inlined
def _lay_words(words: Words, first: int, used: int, loaded: Words) -> None:
    """Lay the words of blocks on side by side, [words of a block, lanes]; zeros fill up."""
    count = words.shape[1]
    if used == LANES and count % 8 == 0:
        source, target = words[first:].ctypes.data, loaded.ctypes.data
        for place in range(0, LANES, 8):
            for number in range(0, count, 8):
                begin, out = source + 4 * (place * count + number), target + 4 * (number * LANES + place)
                transpose_words(begin, 4 * count, out, 4 * LANES)
    else:
        for place in range(LANES):
            for number in range(count):
                loaded[number, place] = words[first + place, number] if place < used else 0


@inlined
def _find_best(  # noqa: PLR0913, PLR0917 - it stands in two kernels
    tile: Floats,
    importance: Floats,
    start: int,
    weighted: Floats,
    trials: Floats,
    top: np.float32,
    centred: bool,
    lane: Floats,
) -> None:
    """Find each lane's best scale and zero point."""
    _find_range(tile, lane)
    _begin(top, centred, lane)
    alike = importance.shape[1] == 0
    if not alike:
        _weigh(tile, importance, start, weighted)
    for number in range(len(trials)):
        _propose(trials[number, 0], trials[number, 1], top, centred, lane)
        if alike:
            _measure_alike(tile, lane)
        else:
            _measure(tile, weighted, importance, start, lane)
        _keep_better(trials[number, 0], lane)


@inlined
def _weigh(tile: Floats, importance: Floats, start: int, weighted: Floats) -> None:
    for element in range(len(tile)):
        weights, products, counts = tile[element], weighted[element], importance[element, start : start + LANES]
        for place in range(LANES):
            products[place] = weights[place] * counts[place]


@inlined
def _find_range(tile: Floats, lane: Floats) -> None:
    """Find the least and the greatest weight of each lane, 0 included."""
    low, high = lane[_LOW], lane[_HIGH]
    for place in range(LANES):
        low[place] = high[place] = _ZERO
    for element in range(0, len(tile), 4):
        one, two, three, four = tile[element], tile[element + 1], tile[element + 2], tile[element + 3]
        for place in range(LANES):
            low[place] = stored(min(low[place], one[place], two[place], three[place], four[place]))
            high[place] = stored(max(high[place], one[place], two[place], three[place], four[place]))


@inlined
def _begin(top: np.float32, centred: bool, lane: Floats) -> None:
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
            code = _code(weights[place], lane[_INVERSE, place], lane[_LEAST, place], lane[_MOST, place])
            lane[_ALONG, place] += code * products[place]
            lane[_SQUARE, place] += code * code * counts[place]


@inlined
def _measure_alike(tile: Floats, lane: Floats) -> None:
    """Sum <w, c> and <c, c> of the trial where all weights count the same."""
    inverse, least, most = lane[_INVERSE], lane[_LEAST], lane[_MOST]
    along, square = lane[_ALONG], lane[_SQUARE]
    for place in range(LANES):
        along[place] = square[place] = _ZERO
    for element in range(0, len(tile), 4):
        one, two, three, four = tile[element], tile[element + 1], tile[element + 2], tile[element + 3]
        for place in range(LANES):
            a = _code(one[place], inverse[place], least[place], most[place])
            b = _code(two[place], inverse[place], least[place], most[place])
            c = _code(three[place], inverse[place], least[place], most[place])
            d = _code(four[place], inverse[place], least[place], most[place])
            along[place] = along[place] + a * one[place] + b * two[place] + c * three[place] + d * four[place]
            square[place] = square[place] + a * a + b * b + c * c + d * d


@inlined
def _code(weight: np.float32, inverse: np.float32, least: np.float32, most: np.float32) -> np.float32:
    """Return a trial's code of a weight, less the zero point."""
    return min(max(np.rint(weight * inverse), least), most)


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
def _lay_largest(tile: Floats, top: np.float32, lane: Floats) -> None:
    """Choose the scale that lays the weight of largest magnitude, the positive one of two, on code 0."""
    middle = (top + _ONE) * _HALF
    _find_range(tile, lane)
    for place in range(LANES):
        low, high = lane[_LOW, place], lane[_HIGH, place]
        lane[_BEST_SCALE, place] = choose(-low > high, low, high) / -middle
        lane[_BEST_ZERO, place] = middle


@inlined
def _round_scales(lane: Floats, half: Words, largest: Words) -> None:
    """Round the best scales to float16, half to even. `half` receives its bits."""
    scale, small = lane[_BEST_SCALE], lane[_ALONG]
    bits, small_bits = scale.view(np.uint32), small.view(np.uint32)
    for place in range(LANES):
        small[place] = abs(scale[place]) + _HALF  # its last place is 2^-24, float16's least number
    for place in range(LANES):
        magnitude, sign = np.uint32(bits[place] & _MAGNITUDE), np.uint32(bits[place] & _SIGN)
        largest[place] = max(largest[place], magnitude)
        even = np.uint32(np.uint32(magnitude >> np.uint32(13)) & np.uint32(1))
        normal = np.uint32(np.uint32(magnitude + np.uint32(0xFFF) + even) >> np.uint32(13))
        denormal = np.uint32(small_bits[place] - np.uint32(0x3F000000))
        is_normal = magnitude >= np.uint32(0x38800000)  # 2^-14
        half[place] = np.uint32(sign >> _16) | choose(is_normal, np.uint32(normal - np.uint32(0x1C000)), denormal)
        rest = np.float32(small[place] - _HALF)
        bits[place] = np.uint32(sign | np.uint32(normal << np.uint32(13)))
        small[place] = choose(is_normal, abs(scale[place]), rest)
    for place in range(LANES):
        scale[place] = choose(scale[place] < _ZERO, -small[place], small[place])


@inlined
def _round_weights(tile: Floats, lane: Floats, top: np.float32, packed: Floats) -> None:
    """Lay the codes of the nearest values on one another, each [elements of one, lanes], as sums in float32."""
    inverse, zero, each = lane[_INVERSE], lane[_BEST_ZERO], len(tile) // len(packed)
    base = np.float32(1 << (16 // each))
    for place in range(LANES):
        scale = lane[_BEST_SCALE, place]
        inverse[place] = choose(abs(scale) >= _TINY, _ONE / scale, _ZERO)
    for number in range(len(packed)):
        total = packed[number]
        for place in range(LANES):
            total[place] = _ZERO
        for element in range((number + 1) * each - 1, number * each - 1, -1):
            weights = tile[element]
            for place in range(LANES):
                code = np.rint(weights[place] * inverse[place]) + zero[place]
                total[place] = total[place] * base + min(max(code, _ZERO), top)


@inlined
def inverse_of(value: np.float32) -> np.float32:
    """Return 1 / x, and 0 where x is too small to have a finite inverse."""
    inverse = _ONE / value
    return choose(value >= _TINY, inverse, _ZERO)
