"""Matrices to 4 and 8 bits in blocks along a row, packed as MatMulNBits and GatherBlockQuantized read them.

Layout (source: the operators' schemas in onnxruntime's com.microsoft domain): a weight is (code - zero point) * scale.
Codes are unsigned, [rows, blocks, size * bits / 8] bytes, the first of two 4-bit codes in the low half of a byte. Zero
points are packed like the codes, [rows, ceil(blocks * bits / 8)] bytes; without them the zero point is 2^(bits-1).
Scales are [rows, blocks].

Scales are rounded to float16, and codes are chosen for the rounded scale: its error is far below that of the codes.

A chunk is laid out as [size, blocks]: an operation over blocks runs along memory, and one over a block's elements is a
sum of whole rows. That is 4 times as fast as [blocks, size] in numpy, and sums are the same on every processor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from builders.quantization.calibration.statistics import MatrixStatistics
from builders.quantization.grids.affine import AffineGrid
from builders.quantization.rounding.matrix import affine_matrix
from targets.storage.onnx import Blocks

Float = NDArray[np.float32]
Codes = NDArray[np.uint8]

_CHUNK_ELEMENTS = 1 << 18  # 1 MiB of float32: near the cores, and few enough calls that threads do not wait for Python
# Shares of a block's range that are tried as the grid: clipping the ends makes the steps finer for all others.
_SPANS = (1.0, 0.93, 0.87, 0.8)
# Places of the block's largest weight in the symmetric range of -8 to 7 that are tried.
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
        """Codes, scales, and zero points where there are any, in the order in which they are stored."""
        both = (self.codes, self.scales)
        return both if self.zero_points is None else (*both, self.zero_points)


def quantize(matrix: Float, blocks: Blocks, statistics: MatrixStatistics | None = None) -> QuantizedMatrix:
    """Quantize a matrix whose columns are a multiple of the block size. Chunks do not change the result.

    Args:
        matrix: float32 [rows, columns].
        blocks: how it is stored.
        statistics: what it is multiplied with, where that is known. 8-bit blocks gain nothing from it.

    Raises:
        ValueError: the columns are not a multiple of the block size.
        OverflowError: a weight too large for a float16 scale.
    """
    rows, columns = matrix.shape
    if columns % blocks.size:
        raise ValueError(f"{columns} columns are not a multiple of the block of {blocks.size}")
    if statistics is not None and blocks.zero_points:
        return _calibrated(matrix, blocks, statistics)
    count, code_bytes = columns // blocks.size, blocks.size * blocks.bits // 8
    codes = np.empty((rows * count, code_bytes), dtype=np.uint8)
    scales = np.empty(rows * count, dtype=np.float16)
    zero_points = np.empty(rows * count, dtype=np.uint8)
    flat = matrix.reshape(-1, blocks.size)
    step = max(2, _CHUNK_ELEMENTS // blocks.size)
    for start in range(0, len(flat), step):
        part = slice(start, start + step)
        scale, zero_point, code = _quantize_blocks(np.ascontiguousarray(flat[part].T), blocks)
        scales[part] = scale
        zero_points[part] = zero_point
        codes[part] = (code if blocks.bits == 8 else code[0::2] | code[1::2] << np.uint8(4)).T
    return QuantizedMatrix(
        blocks=blocks,
        codes=codes.reshape(rows, count, code_bytes),
        scales=scales.reshape(rows, count),
        zero_points=pack(zero_points.reshape(rows, count), blocks.bits) if blocks.zero_points else None,
    )


def _calibrated(matrix: Float, blocks: Blocks, statistics: MatrixStatistics) -> QuantizedMatrix:
    found = affine_matrix(matrix, AffineGrid(blocks.size, blocks.bits), statistics)
    codes = found.codes.reshape(*found.scales.shape, blocks.size)
    return QuantizedMatrix(blocks, pack(codes, blocks.bits), found.scales, pack(found.zeros, blocks.bits))


def dequantize(quantized: QuantizedMatrix) -> Float:
    """Return the matrix [rows, columns] that a runtime computes with."""
    blocks = quantized.blocks
    rows, count = quantized.scales.shape
    codes = unpack(quantized.codes, blocks.bits).reshape(rows, count, blocks.size).astype(np.float32)
    if quantized.zero_points is None:
        centre: Any = np.float32(1 << (blocks.bits - 1))
    else:
        centre = unpack(quantized.zero_points, blocks.bits)[:, :count, None].astype(np.float32)
    return ((codes - centre) * quantized.scales[:, :, None].astype(np.float32)).reshape(rows, -1)


def pack(codes: Codes, bits: int) -> Codes:
    """Return codes of the last axis packed into bytes, low half first; an odd count is padded with zero."""
    if bits == 8:
        return codes
    if codes.shape[-1] % 2:
        codes = np.concatenate([codes, np.zeros_like(codes[..., :1])], axis=-1)
    return codes[..., 0::2] | codes[..., 1::2] << np.uint8(4)


def unpack(packed: Codes, bits: int) -> Codes:
    """Return the codes that `pack` packed (an odd count comes back with its padding)."""
    if bits == 8:
        return packed
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)


def _quantize_blocks(flat: Float, blocks: Blocks) -> tuple[NDArray[np.float16], Codes, Codes]:
    """Return scale, zero point and codes of each column of `flat` [size, blocks]."""
    top = (1 << blocks.bits) - 1
    if blocks.zero_points:
        scale, centre = _affine_grid(flat, top)
    else:
        scale, centre = _symmetric_grid(flat, blocks.bits)
    with np.errstate(over="ignore"):
        rounded = scale.astype(np.float16)
    if not np.isfinite(rounded).all():
        raise OverflowError(f"a weight of {np.abs(flat).max():g} is too large for a float16 scale")
    codes = flat * _reciprocal(rounded.astype(np.float32))
    np.rint(codes, out=codes)
    codes += centre
    np.clip(codes, 0, top, out=codes)
    return rounded, centre.astype(np.uint8), codes.astype(np.uint8)


def _symmetric_grid(flat: Float, bits: int) -> tuple[Float, Float]:
    """Return the scale of least squared error among a few, for codes around 2^(bits-1)."""
    half = 1 << (bits - 1)
    centre = np.full(flat.shape[1], half, dtype=np.float32)
    low, high = flat.min(axis=0), flat.max(axis=0)
    largest: Float = np.where(-low > high, low, high)
    if bits == 8:
        return largest / np.float32(-half), centre  # at 8 bits the search gains nothing measurable
    best = _Best(flat)
    for reach in _REACHES:
        best.try_grid(_reciprocal(largest) * np.float32(reach), centre, top=2 * half - 1)
    return best.scale, centre


def _affine_grid(flat: Float, top: int) -> tuple[Float, Float]:
    """Return scale and zero point of least squared error among a few; zero itself is always on the grid."""
    low = np.minimum(flat.min(axis=0), 0)
    high = np.maximum(flat.max(axis=0), 0)
    best = _Best(flat)
    for span in _SPANS:
        inverse = _reciprocal((high - low) * np.float32(span / top))
        centre = np.rint(np.float32(top / 2) - (high + low) * np.float32(0.5) * inverse)
        best.try_grid(inverse, np.clip(centre, 0, top), top=top)
    return best.scale, best.centre


class _Best:
    """The best grid so far, block by block.

    For fixed codes c (less the zero point) the scale of least error to weights x is Σxc/Σc², and the error falls with
    (Σxc)²/Σc², so that the weights are never rebuilt.
    """

    def __init__(self, flat: Float) -> None:
        count = flat.shape[1]
        self._flat = flat
        self._codes = np.empty_like(flat)
        self._products = np.empty_like(flat)
        self._gain: Float = np.full(count, -1, dtype=np.float32)
        self.scale: Float = np.zeros(count, dtype=np.float32)
        self.centre: Float = np.zeros(count, dtype=np.float32)

    def try_grid(self, inverse: Float, centre: Float, *, top: int) -> None:
        codes = np.multiply(self._flat, inverse, out=self._codes)
        np.rint(codes, out=codes)
        np.maximum(codes, -centre, out=codes)
        np.minimum(codes, top - centre, out=codes)
        cross = self._sum_of(self._flat, codes)
        scale = cross * _reciprocal(self._sum_of(codes, codes))
        gain = cross * scale
        better = gain > self._gain
        np.copyto(self._gain, gain, where=better)
        np.copyto(self.scale, scale, where=better)
        np.copyto(self.centre, centre, where=better)

    def _sum_of(self, one: Float, other: Float) -> Float:
        """Return the sums of products, block by block."""
        total: Float = np.multiply(one, other, out=self._products).sum(axis=0)
        return total


def _reciprocal(values: Float) -> Float:
    """Return 1 / value, and 0 for 0: a block of zeros has scale 0."""
    return np.divide(np.float32(1), values, out=np.zeros_like(values), where=np.abs(values) > np.finfo(np.float32).tiny)
