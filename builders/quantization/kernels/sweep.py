"""Columns that are rounded one after another, each changing what the following ones are rounded to.

Arrays are [columns, rows]: of a few columns of a block, the first of which is its column `first`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from builders.quantization.kernels.compiled import compiled, inlined
from builders.quantization.levels import LevelParts

Floats = NDArray[np.float32]
Codes = NDArray[np.uint8]

_ONE = np.float32(1)


@compiled
def pass_errors_on(own: Floats, upper: Floats, levels: LevelParts, first: int, codes: Codes, values: Floats) -> Floats:
    """Round columns as GPTQ does: each one's error, divided by U_jj, is taken times U_jk from the columns after it.

    Args:
        own: what is left of the weights; changed.
        upper: U of these columns.
        levels: the parts of the block's `Levels`.
        first: see the module's docstring.
        codes: receives the codes.
        values: receives their values.

    Returns the divided errors.
    """
    errors = np.empty_like(own)
    for column in range(len(own)):
        wanted, error = own[column], errors[column]
        _round(wanted, levels, first + column, codes[column], values[column])
        found, inverse = values[column], _ONE / upper[column, column]
        for row in range(len(wanted)):
            error[row] = (wanted[row] - found[row]) * inverse
        _take(own, upper[column], column, error)
    return errors


@compiled
def descend_columns(
    gradient: Floats, moments: Floats, levels: LevelParts, first: int, codes: Codes, values: Floats
) -> Floats:
    """Set each column's values to the best ones given all others: see `rounding.gptq`.

    Args:
        gradient: H e; changed.
        moments: H of these columns.
        levels: the parts of the block's `Levels`.
        first: see the module's docstring.
        codes: receives the codes.
        values: as they are; receives the new ones.

    Returns by how much the values changed.
    """
    changes = np.empty_like(gradient)
    wanted = np.empty_like(gradient[0])
    for column in range(len(gradient)):
        own, value, change, inverse = gradient[column], values[column], changes[column], _ONE / moments[column, column]
        for row in range(len(wanted)):
            wanted[row] = value[row] + own[row] * inverse
            change[row] = -value[row]
        _round(wanted, levels, first + column, codes[column], value)
        for row in range(len(wanted)):
            change[row] += value[row]
        _take(gradient, moments[column], column, change)
    return changes


@inlined
def _take(own: Floats, factors: Floats, column: int, change: Floats) -> None:
    for after in range(column + 1, len(own)):
        left, factor = own[after], factors[after]
        for row in range(len(left)):
            left[row] -= factor * change[row]


@inlined
def _round(wanted: Floats, levels: LevelParts, column: int, codes: Codes, values: Floats) -> None:
    every_scale, every_inverse, every_offset, shared, bases, lowest, highest, table, borders = levels
    group = column // shared
    scales, inverses, offsets = every_scale[group], every_inverse[group], every_offset[group]
    if len(table) == 0:
        for row in range(len(wanted)):
            code = np.rint((wanted[row] - offsets[row]) * inverses[row]) - bases[row]
            code = min(max(code, lowest), highest)
            codes[row] = np.uint8(np.int32(code))
            values[row] = scales[row] * (code + bases[row]) + offsets[row]
    else:
        for row in range(len(wanted)):
            codes[row] = 0
            values[row] = (wanted[row] - offsets[row]) * inverses[row]
        for border in borders:
            for row in range(len(wanted)):
                codes[row] += np.uint8(values[row] > border)
        for row in range(len(wanted)):
            values[row] = scales[row] * table[codes[row]] + offsets[row]
