"""Columns of a matrix made alike, without a byte: what they are multiplied by, what comes before is divided by.

    norm ──x──> W            norm / k ──x / k──> W · k
    silu(gate) · up ──x──> down      silu(gate) · up / k ──x / k──> down · k

Columns of a block share a scale, and the error of a column whose inputs are large counts for more of the output's
error. With k above 1 for such columns their weights take larger codes, so that they are rounded more finely in
proportion. k = (mean square of the column's input / mean over the columns)^.125, divided by its geometric mean; on the
135M model exponents of .06, .09, .16 and .2 do worse on qkv_proj and gate_up_proj, which follow a norm.

down_proj follows gate_up_proj's upper half, up. There folding does harm, but where one column has most of the input: it
belongs to a massive activation, which a few layers of every such model have (arXiv 2402.17762). On two of those layers
of the 135M model the error of down_proj falls to a fiftieth and a fifth. GEGLU's up has an addend, and is left alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from builders.checkpoint import TensorSource
from targets.architecture import Architecture
from targets.layouts import sources_of

Floats = NDArray[np.float32]

EXPONENT = 0.125
_LEAST = 1e-6  # of the mean: a column with less counts as if it had this much
_MOST = 0.4  # of the sum of squares, in one column; of the 135M model's layers, one lies between .2 and this
_AFTER_NORM = {"input_layernorm": "self_attn.qkv_proj", "post_attention_layernorm": "mlp.gate_up_proj"}


def fold_factors(architecture: Architecture, squares: Mapping[str, Floats]) -> dict[str, Floats]:
    """Return k, float32 [columns], of each matrix that gains from it, by its canonical name.

    `squares`: the mean square of each column's input, by the matrix's canonical name. Matrices without a usable one
    (missing, not finite, or all zero) are left out.
    """
    factors = {}
    after_norm, after_up = _norms_before(architecture), _ups_before(architecture)
    for matrix in (*after_norm, *after_up):
        found = squares.get(matrix)
        if found is None or not np.isfinite(found).all() or found.max() <= 0:
            continue
        if matrix in after_norm or found.max() >= _MOST * found.sum(dtype=np.float64):
            logarithms = EXPONENT * np.log(np.maximum(found, _LEAST * found.mean(dtype=np.float64)).astype(np.float64))
            factors[matrix] = np.exp(logarithms - logarithms.mean()).astype(np.float32)
    return factors


class FoldedSource:
    """A checkpoint's weights with factors folded into them. Implements `TensorSource`; wraps another one.

    The model computes the same: see the module's docstring.
    """

    def __init__(self, source: TensorSource, architecture: Architecture, factors: Mapping[str, Floats]) -> None:
        self._source = source
        self._scales: dict[str, Floats] = {}  # of columns or elements, by canonical and by stored names
        self._row_scales: dict[str, Floats] = {}  # of the last rows
        shapes = architecture.tensor_shapes()
        for matrix, norm in _norms_before(architecture).items():
            if matrix not in factors:
                continue
            self._scales[matrix] = factors[matrix]
            for stored, _ in sources_of(architecture, matrix, shapes[matrix]).parts:
                self._scales[stored] = factors[matrix]
            for vector in (f"{norm}.weight", f"{norm}.bias"):
                self._scales[vector] = np.float32(1) / factors[matrix]
        for matrix, gate_up in _ups_before(architecture).items():
            if matrix in factors:
                self._scales[matrix] = factors[matrix]
                last, _ = sources_of(architecture, gate_up, shapes[gate_up]).parts[-1]
                self._row_scales[gate_up] = self._row_scales[last] = np.float32(1) / factors[matrix]

    def tensor(self, name: str) -> Floats:
        """Read one tensor by its canonical name: see `TensorSource`."""
        return self._scaled(name, self._source.tensor(name))

    def stored_tensor(self, name: str) -> Floats:
        """Read one tensor by the checkpoint's own name: see `TensorSource`."""
        return self._scaled(name, self._source.stored_tensor(name))

    def rows(self, name: str, ids: NDArray[np.int64]) -> Floats:
        """Read rows of a stored matrix: see `TensorSource`."""
        values = self._source.rows(name, ids)
        scale = self._scales.get(name)
        return values if scale is None else values * scale

    def _scaled(self, name: str, values: Floats) -> Floats:
        """Return the folded values in a new array, as other readers may share this one; itself where none is folded."""
        columns, rows = self._scales.get(name), self._row_scales.get(name)
        if columns is None and rows is None:
            return values
        scaled = values.copy() if columns is None else values * columns
        if rows is not None:
            scaled[-len(rows) :] *= rows[:, None]
        return scaled


def _ups_before(architecture: Architecture) -> dict[str, str]:
    """Return the name of the gate_up_proj before each down_proj, by down_proj's; none where there is no SwiGLU."""
    if architecture.gegelu_limit is not None:
        return {}
    prefixes = (f"model.layers.{layer}.mlp" for layer in range(architecture.layer_count))
    return {f"{prefix}.down_proj.weight": f"{prefix}.gate_up_proj.weight" for prefix in prefixes}


def _norms_before(architecture: Architecture) -> dict[str, str]:
    """Return the stem of the norm before each matrix that follows one, by the matrix's canonical name."""
    return {
        f"model.layers.{layer}.{matrix}.weight": f"model.layers.{layer}.{norm}"
        for layer in range(architecture.layer_count)
        for norm, matrix in _AFTER_NORM.items()
    }
