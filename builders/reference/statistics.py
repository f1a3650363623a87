"""What a checkpoint's matrices are multiplied with: the mean square of each input column over evaluation tokens.

A quantizer learns from it which columns matter: llama.cpp's importance matrix holds the same sums (tools/imatrix), and
the diagonal of GPTQ's Hessian is twice as much.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from targets.architecture import Architecture

if TYPE_CHECKING:
    from torch import Tensor

Statistics = dict[str, NDArray[np.float32]]  # by a matrix's canonical name: [columns]


def multiplied(architecture: Architecture) -> list[str]:
    """Return the names of the matrices that something is multiplied with, in order: the layers', and the head."""
    shapes = architecture.tensor_shapes()
    return [
        name
        for name, shape in shapes.items()
        if len(shape) == 2 and (name.startswith("model.layers.") or name == architecture.head_tensor)
    ]


class MeanSquares:
    """Accumulates mean squares over calls: an observer of the forward pass."""

    def __init__(self) -> None:
        self._sums: dict[str, NDArray[np.float64]] = {}
        self._rows: dict[str, int] = {}

    def __call__(self, name: str, rows: Tensor) -> None:
        """Add rows [tokens, columns] that a matrix is multiplied with."""
        with np.errstate(over="ignore"):  # who asks for the means looks whether they are finite
            sums = np.square(rows.numpy()).sum(0)  # row after row; torch's order depends on its threads
        self._sums[name] = self._sums.get(name, 0.0) + sums.astype(np.float64)
        self._rows[name] = self._rows.get(name, 0) + len(rows)

    def means(self) -> Statistics:
        """Return the mean squares, float32 [columns] each."""
        return {name: (sums / self._rows[name]).astype(np.float32) for name, sums in self._sums.items()}

    def clear(self) -> None:
        """Forget all rows."""
        self._sums.clear()
        self._rows.clear()
