"""The best scales of an affine grid for given codes: all blocks of a row at once.

A row's values are Σ s_b z_b, with z_b its codes less the zero point in block b and 0 elsewhere. The error eᵀ H e is
least where Σ_b' (z_bᵀ H z_b') s_b' = z_bᵀ H w for every b: a small system a row.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from builders.quantization.grids.affine import AffineBlock
from builders.quantization.rounding.gptq import Curvature, Rounded

Floats = NDArray[np.float32]

_NEAR = 1e-4  # of a system's mean diagonal, added to it: blocks of zeros have no scale of their own
_WIDEST_CHANGE = 2.0  # a scale that would change by more is left: its system is ill-conditioned


def refit_scales(rounded: Rounded, curvature: Curvature) -> None:
    """Replace the scales of fitted `AffineBlock`s, and the values, where the row's error gets smaller."""
    blocks = [block for block in rounded.blocks if isinstance(block, AffineBlock)]
    count, rows = len(blocks), rounded.weights.shape[1]
    columns = len(rounded.weights) // count
    zeros = np.repeat(np.stack([block.zero for block in blocks]), columns, axis=0)
    codes = rounded.codes.astype(np.float32) - zeros
    old = np.stack([block.scale for block in blocks], axis=1)  # [rows, blocks]
    system, target = _system(codes, rounded.weights, curvature.damped, columns)
    new = _solved(system, target, old)
    better = _errors(system, target, new) < _errors(system, target, old)
    scales = np.where(better[:, None], new, old)
    for number, block in enumerate(blocks):
        block.scale = np.ascontiguousarray(scales[:, number])
    rounded.values[...] = (codes.reshape(count, columns, rows) * scales.T[:, None, :]).reshape(-1, rows)


def _system(codes: Floats, weights: Floats, moments: Floats, columns: int) -> tuple[Floats, Floats]:
    """Return z_bᵀ H z_b' [rows, blocks, blocks] and z_bᵀ H w [rows, blocks] of all rows."""
    count, rows = len(codes) // columns, codes.shape[1]
    system = np.empty((count, count, rows), np.float32)
    for number in range(count):
        own = slice(number * columns, (number + 1) * columns)
        products = moments[own.start :, own] @ codes[own]
        products *= codes[own.start :]
        sums = products.reshape(-1, columns, rows).sum(axis=1)
        system[number, number:] = system[number:, number] = sums
    target = ((moments @ weights) * codes).reshape(count, columns, rows).sum(axis=1)
    return np.ascontiguousarray(system.transpose(2, 0, 1)), np.ascontiguousarray(target.T)


def _solved(system: Floats, target: Floats, old: Floats) -> Floats:
    """Return the scales that solve each row's system, as float16 holds them; old ones where they are no use."""
    diagonal = np.einsum("rbb->rb", system)
    eased = system.copy()
    np.einsum("rbb->rb", eased)[...] += np.float32(_NEAR) * diagonal.mean(axis=1, keepdims=True) + np.float32(1e-30)
    solved = np.linalg.solve(eased, target[..., None])[..., 0]
    solved = solved.astype(np.float16).astype(np.float32)
    near = (solved > old / _WIDEST_CHANGE) & (solved < old * _WIDEST_CHANGE)
    return np.where(near, solved, old)


def _errors(system: Floats, target: Floats, scales: Floats) -> Floats:
    """Return each row's eᵀ H e, less the same constant for all scales."""
    along = np.einsum("rb,rb->r", scales, target)
    product = np.matmul(system, scales[..., None])[..., 0]
    errors: Floats = np.einsum("rb,rb->r", scales, product) - 2 * along
    return errors
