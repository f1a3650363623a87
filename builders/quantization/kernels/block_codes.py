"""The codes of the nearest values, for scales and zero points that are chosen: `nearest`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from builders.quantization.kernels.compiled import compiled

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

_ZERO, _ONE = np.float32(0), np.float32(1)
_TINY = np.finfo(np.float32).tiny


@compiled
def nearest(blocks: Floats, scales: Floats, zeros: Floats, top: np.float32, codes: Bytes) -> None:
    """Write the codes of weights [blocks, elements] to `codes`. Scales, which may be 0, and zero points: [blocks]."""
    for number in range(len(blocks)):
        weights, found, scale, zero = blocks[number], codes[number], scales[number], zeros[number]
        inverse = _ONE / scale if abs(scale) >= _TINY else _ZERO
        for element in range(len(weights)):
            code = np.rint(weights[element] * inverse) + zero
            found[element] = np.uint8(np.int32(min(max(code, _ZERO), top)))
