"""The small systems that the best scales of a row solve, of many rows at a time: the last axis of each array is rows.

`block_sums` fills a system, `solve` solves it, and `errors` says what scales are worth.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from builders.quantization.kernels.compiled import compiled, inlined

Floats = NDArray[np.float32]

_ZERO, _ONE, _TWO = np.float32(0), np.float32(1), np.float32(2)
_LEAST = np.float32(1e-30)  # of a diagonal: a row of zeros has a solution, too


@compiled
def block_sums(one: Floats, other: Floats, columns: int, sums: Floats) -> None:
    """Write the sums of products [blocks, rows] over the columns of each block to `sums`; factors: [columns, rows]."""
    for block in range(len(sums)):
        total = sums[block]
        for row in range(len(total)):
            total[row] = _ZERO
        for column in range(block * columns, (block + 1) * columns):
            left, right = one[column], other[column]
            for row in range(len(total)):
                total[row] += left[row] * right[row]


@compiled
def solve(system: Floats, target: Floats, near: np.float32, solved: Floats) -> None:
    """Solve each row's system by a Cholesky factorization. Of one that is not positive definite the result has NaN.

    Args:
        system: [blocks, blocks, rows], filled where the second index is not less than the first. The rest receives
            the factor.
        target: [blocks, rows].
        near: this share of a system's mean diagonal is added to its diagonal.
        solved: receives the solution [blocks, rows].
    """
    count, rows = target.shape
    eased, pivots = np.empty(rows, np.float32), np.empty((count, rows), np.float32)
    _ease(system, near / np.float32(count), eased)
    for block in range(count):
        pivot, total = pivots[block], solved[block]
        for row in range(rows):
            pivot[row], total[row] = system[block, block, row] + eased[row], target[block, row]
        for before in range(block):
            _take(pivot, system[block, before], system[block, before])
            _take(total, system[block, before], solved[before])
        for row in range(rows):
            pivot[row] = _ONE / np.sqrt(pivot[row])
            total[row] *= pivot[row]
        for after in range(block + 1, count):
            below = system[after, block]
            for row in range(rows):
                below[row] = system[block, after, row]
            for before in range(block):
                _take(below, system[block, before], system[after, before])
            for row in range(rows):
                below[row] *= pivot[row]
    _substitute_back(system, pivots, solved)


@inlined
def _substitute_back(system: Floats, pivots: Floats, solved: Floats) -> None:
    for block in range(len(solved) - 1, -1, -1):
        for after in range(block + 1, len(solved)):
            _take(solved[block], system[after, block], solved[after])
        for row in range(solved.shape[1]):
            solved[block, row] *= pivots[block, row]


@inlined
def _ease(system: Floats, share: np.float32, eased: Floats) -> None:
    for row in range(len(eased)):
        eased[row] = _ZERO
    for block in range(len(system)):
        for row in range(len(eased)):
            eased[row] += system[block, block, row]
    for row in range(len(eased)):
        eased[row] = eased[row] * share + _LEAST


@inlined
def _take(left: Floats, one: Floats, other: Floats) -> None:
    for row in range(len(left)):
        left[row] -= one[row] * other[row]


@compiled
def errors(system: Floats, target: Floats, scales: Floats, found: Floats) -> None:
    """Write each row's eᵀ H e [rows] for scales [blocks, rows] to `found`, less the same constant for all scales."""
    count, rows = target.shape
    along = np.empty(rows, np.float32)
    for row in range(rows):
        found[row] = _ZERO
    for block in range(count):
        own, aim, scale = system[block, block], target[block], scales[block]
        for row in range(rows):
            along[row] = own[row] * scale[row] - _TWO * aim[row]
        for after in range(block + 1, count):
            shared, other = system[block, after], scales[after]
            for row in range(rows):
                along[row] += _TWO * shared[row] * other[row]
        for row in range(rows):
            found[row] += along[row] * scale[row]
