"""ggml's search for the float16 and the 6 bits that a block of Q4_K or Q5_K stores its 8 scales, or minima, in.

The formulas and their order are those of `make_qp_quants` in ggml's src/ggml-quants.c, which ggml calls where columns
have an importance: some widths of the codes' range are tried, then codes are changed one by one where that is better.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from builders.quantization.kernels.compiled import compiled, inlined

Floats = NDArray[np.float32]

_ZERO, _ONE = np.float32(0), np.float32(1)
_LEAST = np.float32(1e-15)  # of the largest; ggml stores smaller ones as zeros, older versions did not
_MOST = np.float32(4194303)  # that ggml's own way of rounding holds
_STEP = np.float32(0.1)  # from a width to the next, in codes
_WIDTHS = 4  # to either side
_ROUNDS = 5  # of changes
_ALONG, _SQUARE = 0, 1  # the sums: of values times codes, and of codes squared


@compiled
def scale_codes(values: Floats, counts: Floats, top: np.float32, scales: Floats, codes: Floats) -> None:
    """Store values, not negative, as code * scale.

    Args:
        values: [blocks, 8].
        counts: how much the squared error of each counts, [blocks, 8].
        top: the greatest code.
        scales: receives [blocks]; NaN where ggml has to decide: a value is negative or tiny, or its rounding fails.
        codes: receives whole numbers [blocks, 8].
    """
    sums = np.empty(2, np.float32)
    for number in range(len(values)):
        own, count, code = values[number], counts[number], codes[number]
        least, largest = own.min(), own.max()
        if largest < _LEAST:
            code[:] = _ZERO
            scales[number] = _ZERO if least == _ZERO and largest == _ZERO else np.float32(np.nan)
            continue
        _round(own, count, top, _best_width(own, count, top, largest), code, sums)
        sure = least >= _ZERO
        for _ in range(_ROUNDS):
            changes = _change(own, count, top, code, sums)
            sure = sure and changes >= 0
            if changes <= 0:
                break
        scales[number] = sums[_ALONG] / sums[_SQUARE] if sure and sums[_SQUARE] > _ZERO else np.float32(np.nan)


@inlined
def _best_width(values: Floats, counts: Floats, top: np.float32, largest: np.float32) -> np.float32:
    """Return how many codes a unit is wide, so that the rounded values have the least error."""
    inverse, least = top / largest, _ZERO
    for trial in range(2 * _WIDTHS + 1):
        width = _STEP * np.float32(trial - 1 - _WIDTHS if trial <= _WIDTHS else trial - _WIDTHS) + top
        tried = (top if trial == 0 else width) / largest
        scale, error = _ONE / tried, _ZERO
        for place in range(len(values)):
            off = values[place] - scale * min(np.rint(tried * values[place]), top)
            error += counts[place] * off * off
        if trial == 0 or error < least:
            inverse, least = tried, error
    return inverse


@inlined
def _round(values: Floats, counts: Floats, top: np.float32, inverse: np.float32, codes: Floats, sums: Floats) -> None:
    sums[_ALONG], sums[_SQUARE] = _ZERO, _ZERO
    for place in range(len(values)):
        code = min(np.rint(inverse * values[place]), top)
        codes[place] = code
        sums[_ALONG] += counts[place] * values[place] * code
        sums[_SQUARE] += counts[place] * code * code


@inlined
def _change(values: Floats, counts: Floats, top: np.float32, codes: Floats, sums: Floats) -> int:
    """Change each code to the one that fits the others' scale, where that is better.

    Returns:
        how many were changed; -1 where ggml would round a number that its way of rounding does not hold.
    """
    changes = 0
    for place in range(len(values)):
        value, count, code = values[place], counts[place], codes[place]
        along, square = sums[_ALONG] - count * value * code, sums[_SQUARE] - count * code * code
        if along > _ZERO and square > _ZERO:
            wanted = value * square / along
            if wanted > _MOST:
                return -1
            fresh = min(np.rint(wanted), top)
            along += count * value * fresh
            square += count * fresh * fresh
            if fresh != code and along * along * sums[_SQUARE] > sums[_ALONG] * sums[_ALONG] * square:
                codes[place], sums[_ALONG], sums[_SQUARE] = fresh, along, square
                changes += 1
    return changes
