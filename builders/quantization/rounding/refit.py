"""The best scales of a grid for given codes: all blocks of a row at once.

A row's values are Σ s_b z_b, with z_b what its codes stand for in units of the scale (less the zero point, or a table's
values) in block b and 0 elsewhere. The error eᵀ H e is
least where Σ_b' (z_bᵀ H z_b') s_b' = z_bᵀ H w for every b: a small system a row.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from builders.quantization.grids.affine import AffineBlock
from builders.quantization.grids.table_blocks import TableBlock
from builders.quantization.rounding.gptq import Curvature, Rounded

Floats = NDArray[np.float32]

_NEAR = np.float32(1e-4)  # of a system's mean diagonal, added to it: blocks of zeros have no scale of their own
_WIDEST_CHANGE = 2.0  # a scale that would change by more is left: its system is ill-conditioned
_ROWS = 128  # whose systems are solved at a time: they fit the processor's cache


def refit_scales(rounded: Rounded, curvature: Curvature) -> None:
    """Replace the scales of fitted blocks, and the values, where the row's error gets smaller."""
    blocks = [block for block in rounded.blocks if isinstance(block, AffineBlock | TableBlock)]
    outputs, scales = rounded.outputs(curvature.damped), np.stack([block.scale for block in blocks])
    columns = len(rounded.codes) // len(blocks)
    for first in range(0, rounded.weights.shape[1], _ROWS):
        rows = slice(first, first + _ROWS)
        codes = rounded.codes[:, rows].reshape(len(blocks), columns, -1)
        units = np.stack([block.in_scales(each, rows) for block, each in zip(blocks, codes, strict=True)])
        flat = units.reshape(len(rounded.codes), -1)
        scales[:, rows] = _refitted(flat, np.ascontiguousarray(outputs[:, rows]), curvature.damped, scales[:, rows])
        rounded.values[:, rows] = (units * scales[:, None, rows]).reshape(flat.shape)
    for block, scale in zip(blocks, scales, strict=True):
        block.scale = scale


def _refitted(codes: Floats, outputs: Floats, moments: Floats, old: Floats) -> Floats:
    """Return the better of new and old scales [blocks, rows] of some rows.

    Args:
        codes: in units of their scales [columns, rows].
        outputs: H w [columns, rows].
        moments: H.
        old: scales [blocks, rows].
    """
    from builders.quantization.kernels.scale_systems import block_sums, errors, solve

    count, rows = old.shape
    columns, old = len(codes) // count, np.ascontiguousarray(old)
    system, target = np.empty((count, count, rows), np.float32), np.empty_like(old)
    block_sums(outputs, codes, columns, target)
    for number in range(count):
        own = slice(number * columns, (number + 1) * columns)
        block_sums(moments[own.start :, own] @ codes[own], codes[own.start :], columns, system[number, number:])
    new = np.empty_like(old)
    solve(system, target, _NEAR, new)
    new = new.astype(np.float16).astype(np.float32)
    new = np.where((new > old / _WIDEST_CHANGE) & (new < old * _WIDEST_CHANGE), new, old)
    error = np.empty((2, rows), np.float32)
    errors(system, target, old, error[0])
    errors(system, target, new, error[1])
    return np.where(error[1] < error[0], new, old)
