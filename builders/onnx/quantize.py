"""Matrices to 4 and 8 bits in blocks along a row, packed as MatMulNBits and GatherBlockQuantized read them.

Layout (source: the operators' schemas in onnxruntime's com.microsoft domain): a weight is (code - zero point) * scale.
Codes are unsigned, [rows, blocks, size * bits / 8] bytes, the first of two 4-bit codes in the low half of a byte. Zero
points are packed like the codes, [rows, ceil(blocks * bits / 8)] bytes; without them the zero point is 2^(bits-1).
Scales are [rows, blocks].

Blocks with zero points are an affine grid (`quantization/grids/affine.py`); those without, which recipes have with 8
bits, reach from the block's largest weight to almost its negative: at 8 bits a search gains nothing measurable.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from builders.checkpoint.sources import Rows
from builders.quantization.calibration.statistics import MatrixStatistics
from builders.quantization.grids.affine import AffineGrid, Search
from builders.quantization.rounding.matrix import NO_SEARCH, affine_matrix, nearest_codes
from targets.storage.onnx import Blocks

Float = NDArray[np.float32]
Codes = NDArray[np.uint8]

# Shares of a block's range that are tried as the grid: clipping the ends makes the steps finer for all others.
_SPANS = (1.0, 0.93, 0.87, 0.8)


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


def quantize(matrix: Rows, blocks: Blocks, statistics: MatrixStatistics | None = None) -> QuantizedMatrix:
    """Quantize a matrix whose columns are a multiple of the block size.

    Args:
        matrix: [rows, columns]; float32 where there are moments.
        blocks: how it is stored.
        statistics: what it is multiplied with, where that is known. Blocks without zero points gain nothing from it.

    Raises:
        ValueError: the columns are not a multiple of the block size.
        NotFiniteError: a weight is NaN or infinite.
        OverflowError: a weight too large for a float16 scale.
    """
    if (columns := matrix.shape[1]) % blocks.size:
        raise ValueError(f"{columns} columns are not a multiple of the block of {blocks.size}")
    grid = AffineGrid(blocks.size, blocks.bits)
    if not blocks.zero_points:
        codes, scales, _ = nearest_codes(matrix, replace(grid, search=NO_SEARCH), code_bits=blocks.bits)
    elif statistics is None:
        codes, scales, zeros = nearest_codes(matrix, _uncalibrated(blocks), code_bits=blocks.bits)
    elif not statistics.moments:
        codes, scales, zeros = nearest_codes(matrix, grid, statistics.squares, code_bits=blocks.bits)
    else:
        made = affine_matrix(matrix[:], grid, statistics)
        codes, scales, zeros = pack(made.codes, blocks.bits), made.scales, made.zeros
    packed = codes.reshape(*scales.shape, blocks.size * blocks.bits // 8)
    return QuantizedMatrix(blocks, packed, scales, pack(zeros, blocks.bits) if blocks.zero_points else None)


def _uncalibrated(blocks: Blocks) -> AffineGrid:
    top = (1 << blocks.bits) - 1
    trials = tuple((span / top, 0) for span in _SPANS)
    return AffineGrid(blocks.size, blocks.bits, Search(trials, centred=True))


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
    pairs = np.ascontiguousarray(codes).view("<u2")  # contiguous words: 5 times as fast as every other byte
    return (pairs | pairs >> np.uint16(4)).astype(np.uint8)


def unpack(packed: Codes, bits: int) -> Codes:
    """Return the codes that `pack` packed (an odd count comes back with its padding)."""
    if bits == 8:
        return packed
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)
