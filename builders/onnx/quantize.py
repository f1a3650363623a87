"""Matrices to 4 and 8 bits in blocks along a row, packed as MatMulNBits and GatherBlockQuantized read them.

Layout (source: the operators' schemas in onnxruntime's com.microsoft domain): a weight is (code - zero point) * scale.
Codes are unsigned, [rows, blocks, size * bits / 8] bytes, the first of two 4-bit codes in the low half of a byte. Zero
points are packed like the codes, [rows, ceil(blocks * bits / 8)] bytes; without them 2^(bits-1) is meant. Scales are
[rows, blocks].

Scales are rounded to float16, and codes chosen for the rounded scale: an error far below that of the codes themselves.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from targets.storage.onnx import Blocks

Float = NDArray[np.float32]
Codes = NDArray[np.uint8]

_CHUNK_ELEMENTS = 1 << 16  # 256 KiB of float32: a chunk stays in a core's cache over all passes
_THREADS = 2
# Shares of a block's range that the grid is tried on: clipping the ends makes the steps finer for all others.
_SPANS = (1.0, 0.93, 0.87, 0.8)
# Where the block's largest weight may come to lie in the symmetric range of -8 to 7.
_REACHES = (-8.6, -8.0, -7.5, -7.0, -6.4, 7.0)


@dataclass(frozen=True)
class QuantizedMatrix:
    """A matrix [rows, columns] in blocks. Arrays are packed as the module's docstring says; scales are float16."""

    blocks: Blocks
    codes: Codes
    scales: NDArray[np.float16]
    zero_points: Codes | None

    @property
    def arrays(self) -> tuple[NDArray[Any], ...]:
        """Codes, scales, and zero points where there are any: the order in which they are stored."""
        both = (self.codes, self.scales)
        return both if self.zero_points is None else (*both, self.zero_points)


def quantize(matrix: Float, blocks: Blocks) -> QuantizedMatrix:
    """Quantize a matrix whose columns are a multiple of the block size. Threads and chunks do not change the result.

    Raises:
        ValueError: columns that are no multiple of the block size.
        OverflowError: a weight too large for a float16 scale.
    """
    rows, columns = matrix.shape
    if columns % blocks.size:
        raise ValueError(f"{columns} columns are no multiple of the block of {blocks.size}")
    count = columns // blocks.size
    codes = np.empty((rows, count, blocks.size), dtype=np.uint8)
    scales = np.empty((rows, count), dtype=np.float16)
    zero_points = np.empty((rows, count), dtype=np.uint8)
    step = max(1, _CHUNK_ELEMENTS // columns)

    def work(start: int) -> None:
        part = slice(start, start + step)
        flat = matrix[part].reshape(-1, blocks.size)
        scale, zero_point, code = _quantize_blocks(flat, blocks)
        scales[part] = scale.reshape(-1, count)
        zero_points[part] = zero_point.reshape(-1, count)
        codes[part] = code.reshape(-1, count, blocks.size)

    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(work, range(0, rows, step)))
    return QuantizedMatrix(
        blocks=blocks,
        codes=pack(codes, blocks.bits),
        scales=scales,
        zero_points=pack(zero_points, blocks.bits) if blocks.zero_points else None,
    )


def dequantize(quantized: QuantizedMatrix) -> Float:
    """Give back the matrix [rows, columns] that a runtime computes with."""
    blocks = quantized.blocks
    rows, count = quantized.scales.shape
    codes = unpack(quantized.codes, blocks.bits).reshape(rows, count, blocks.size).astype(np.float32)
    if quantized.zero_points is None:
        centre: Any = np.float32(1 << (blocks.bits - 1))
    else:
        centre = unpack(quantized.zero_points, blocks.bits)[:, :count, None].astype(np.float32)
    return ((codes - centre) * quantized.scales[:, :, None].astype(np.float32)).reshape(rows, -1)


def pack(codes: Codes, bits: int) -> Codes:
    """Put codes of the last axis into bytes, low half first; an odd count is filled up with zero."""
    if bits == 8:
        return codes
    if codes.shape[-1] % 2:
        codes = np.concatenate([codes, np.zeros_like(codes[..., :1])], axis=-1)
    return codes[..., 0::2] | codes[..., 1::2] << np.uint8(4)


def unpack(packed: Codes, bits: int) -> Codes:
    """Undo `pack` (an odd count comes back with its filling)."""
    if bits == 8:
        return packed
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)


def _quantize_blocks(flat: Float, blocks: Blocks) -> tuple[NDArray[np.float16], Codes, Codes]:
    """Scale and zero point of each row of `flat`, and its codes."""
    top = (1 << blocks.bits) - 1
    if blocks.zero_points:
        scale, centre = _affine_grid(flat, top)
    else:
        scale, centre = _symmetric_grid(flat, blocks.bits)
    with np.errstate(over="ignore"):
        rounded = scale.astype(np.float16)
    if not np.isfinite(rounded).all():
        raise OverflowError(f"a weight of {np.abs(flat).max():g} is too large for a float16 scale")
    inverse = _reciprocal(rounded.astype(np.float32))
    codes = np.rint(flat * inverse[:, None])
    codes += centre[:, None]
    np.clip(codes, 0, top, out=codes)
    return rounded, centre.astype(np.uint8), codes.astype(np.uint8)


def _symmetric_grid(flat: Float, bits: int) -> tuple[Float, Float]:
    """Scale of least squared error among a few, for codes around 2^(bits-1)."""
    half = 1 << (bits - 1)
    centre = np.full(len(flat), half, dtype=np.float32)
    largest = np.take_along_axis(flat, np.abs(flat).argmax(axis=1)[:, None], axis=1)[:, 0]
    if bits == 8:
        return largest / np.float32(-half), centre  # the search would gain nothing that shows
    best = _Best(len(flat))
    for reach in _REACHES:
        best.try_grid(flat, _reciprocal(largest) * np.float32(reach), centre, top=2 * half - 1)
    return best.scale, centre


def _affine_grid(flat: Float, top: int) -> tuple[Float, Float]:
    """Scale and zero point of least squared error among a few; zero itself is always on the grid."""
    low = np.minimum(flat.min(axis=1), 0)
    high = np.maximum(flat.max(axis=1), 0)
    best = _Best(len(flat))
    for span in _SPANS:
        inverse = _reciprocal((high - low) * np.float32(span / top))
        centre = np.rint(np.float32(top / 2) - (high + low) * np.float32(0.5) * inverse)
        best.try_grid(flat, inverse, np.clip(centre, 0, top), top=top)
    return best.scale, best.centre


class _Best:
    """The best grid so far, block by block.

    For fixed codes c (less the zero point) the scale of least error to weights x is Σxc/Σc², and the error falls with
    (Σxc)²/Σc², so that the weights are never rebuilt.
    """

    def __init__(self, count: int) -> None:
        self.scale: Float = np.zeros(count, dtype=np.float32)
        self.centre: Float = np.zeros(count, dtype=np.float32)
        self._gain: Float = np.full(count, -1, dtype=np.float32)

    def try_grid(self, flat: Float, inverse: Float, centre: Float, *, top: int) -> None:
        codes = flat * inverse[:, None]
        np.rint(codes, out=codes)
        np.clip(codes, -centre[:, None], (top - centre)[:, None], out=codes)
        cross = np.einsum("bk,bk->b", flat, codes)
        square = np.einsum("bk,bk->b", codes, codes)
        scale = cross * _reciprocal(square)
        gain = cross * scale
        better = gain > self._gain
        self._gain[better] = gain[better]
        self.scale[better] = scale[better]
        self.centre[better] = centre[better]


def _reciprocal(values: Float) -> Float:
    """1 / value, and 0 for 0: a block of zeros has scale 0."""
    return np.divide(np.float32(1), values, out=np.zeros_like(values), where=np.abs(values) > np.finfo(np.float32).tiny)
