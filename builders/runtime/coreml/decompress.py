"""The loop that turns 4-bit weights into float32: compiled, since a call of a large program decompresses billions."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from builders.quantization.kernels.compiled import compiled

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

_LOW = np.uint8(15)
_FOUR = np.uint8(4)


@intrinsic  # type: ignore[untyped-decorator]
def _through_half(_typing: Any, value: Any) -> Any:
    """Return a float32 rounded to float16's precision and range, to nearest even, as an instruction."""

    def emit(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.fpext(builder.fptrunc(arguments[0], ir.HalfType()), ir.FloatType())

    return types.float32(value), emit


@intrinsic  # type: ignore[untyped-decorator]
def _half(_typing: Any, bits: Any) -> Any:
    """Return the float32 that the 16 bits of a float16 stand for."""

    def emit(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), ir.FloatType())

    return types.float32(bits), emit


@compiled
def decompress(
    codes: Bytes, scales: NDArray[np.uint16], offsets: Bytes, flip: np.uint8, first: int, out: Floats
) -> None:
    """Write scale * (code - offset), rounded to float16, of the rows from `first` on.

    `codes`: 4 bits, low ones first, [all rows, columns / 2]. `scales`: the bits of float16, [all rows, blocks].
    `offsets`: codes too, packed one after the other for all blocks; empty for none. `flip`: 8 where codes and offsets
    are signed, else 0. `out`: [rows, columns].
    """
    blocks = scales.shape[1]
    half = codes.shape[1] // blocks
    for row in range(out.shape[0]):
        for block in range(blocks):
            scale = _half(scales[first + row, block])
            number = (first + row) * blocks + block
            offset = np.float32(flip)
            if len(offsets):
                both = offsets[number // 2]
                offset = np.float32(((both >> _FOUR) if number % 2 else (both & _LOW)) ^ flip)
            packed = codes[first + row, block * half : (block + 1) * half]
            weights = out[row, 2 * block * half : 2 * (block + 1) * half]
            for place in range(half):
                byte = packed[place]
                weights[2 * place] = _through_half((np.float32((byte & _LOW) ^ flip) - offset) * scale)
                weights[2 * place + 1] = _through_half((np.float32((byte >> _FOUR) ^ flip) - offset) * scale)
