"""Unsigned codes in blocks along a row, each block with a float16 scale and a zero point: scale * (code - zero point).

MatMulNBits of onnxruntime and Core ML's constexpr_blockwise_shift_scale store a matrix so; each packs it its own way.

Several widths of a block's range, 0 included, and places of its zero point are tried; a `Search` says which. Scales are
rounded to float16, and codes are chosen for the rounded scale: its error is far below that of the codes. Scales are
positive, because Core ML's compiler refuses negative ones elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from builders.quantization.levels import Levels

Floats = NDArray[np.float32]
Halves = NDArray[np.float16]
Bytes = NDArray[np.uint8]

_TINY = np.finfo(np.float32).tiny
_WHOLE_BLOCK = 1 << 30  # more columns than a block has: all share a scale
_INFINITE = 65520.0  # the least magnitude that float16 rounds to infinity


@dataclass(frozen=True)
class Search:
    """What is tried for a block: see `kernels.block_search.search`.

    Attributes:
        trials: width of the grid as a share of the block's range, and the move of its zero point; a width of 0 is the
            best one so far.
        centred: the middle of the grid is laid on the middle of the range, not its zero on the range's zero.
    """

    trials: tuple[tuple[float, int], ...]
    centred: bool = False

    @property
    def tried(self) -> Floats:
        """The trials as kernels read them, [trials, 2]."""
        return np.array(self.trials, np.float32).reshape(-1, 2)


# Wider ones than the range count, too: a block's weights may lie better between the steps of a coarser grid.
CALIBRATED = Search(tuple((1.3 - 0.04 * step, move) for step in range(15) for move in (0, -1, 1)))


@dataclass(frozen=True)
class AffineMatrix:
    """A matrix: codes [rows, columns], scales and zero points [rows, columns / block]."""

    codes: Bytes
    scales: Halves
    zeros: Bytes

    def dequantized(self) -> Floats:
        """Return the weights [rows, columns]."""
        rows, blocks = self.scales.shape
        codes = self.codes.reshape(rows, blocks, -1).astype(np.float32) - self.zeros[..., None]
        return (codes * self.scales.astype(np.float32)[..., None]).reshape(rows, -1)


@dataclass
class AffineBlock:
    """A block's scales, as float16 holds them, and zero points, float32 [rows]. Implements `FittedGrid`."""

    scale: Floats
    zero: Floats
    top: np.float32

    @property
    def levels(self) -> Levels:
        """The values that its columns may take: see `FittedGrid`."""
        scales, none = self.scale[None], np.empty(0, np.float32)
        return Levels(
            scales=scales,
            inverses=inverse(scales),
            offsets=np.zeros_like(scales),
            shared=_WHOLE_BLOCK,
            bases=-self.zero,
            lowest=np.float32(0),
            highest=self.top,
            table=none,
            borders=none,
        )

    def in_scales(self, codes: Bytes, rows: slice) -> Floats:
        """Return what codes [columns, rows] of some of the rows stand for in units of their scales."""
        return codes - self.zero[rows]


@dataclass(frozen=True)
class AffineGrid:
    """Blocks of `columns` elements, a multiple of 8, with codes of `bits` bits. Implements `Grid`."""

    columns: int
    bits: int = 4
    search: Search = CALIBRATED

    def __post_init__(self) -> None:
        if self.columns % 8:
            raise ValueError(f"blocks of {self.columns} elements: kernels work on a multiple of 8")

    @property
    def top(self) -> np.float32:
        """The greatest code."""
        return np.float32((1 << self.bits) - 1)

    def fit(self, weights: Floats, importance: Floats) -> AffineBlock:
        """Choose scale and zero point of each row's block [rows, columns]: see `Grid`."""
        from builders.quantization.kernels.block_search import lanes_of, search

        found = np.empty((2, len(weights)), np.float32)
        lanes = lanes_of(importance, self.columns)
        search(np.ascontiguousarray(weights), lanes, self.search.tried, self.top, self.search.centred, found)
        return AffineBlock(as_stored(found[0]).astype(np.float32), found[1], self.top)

    def pack(self, blocks: Sequence[AffineBlock], codes: Bytes) -> tuple[Bytes, Halves, Bytes]:
        """Return codes [rows, columns], scales and zero points [rows, blocks]: see `Grid`."""
        scales = np.stack([block.scale for block in blocks], axis=1).astype(np.float16)
        return codes, scales, np.stack([block.zero for block in blocks], axis=1).astype(np.uint8)


def as_stored(scales: Floats) -> Halves:
    """Return scales in float16. Raises `OverflowError` where one is too large."""
    require_float16(np.abs(scales).max(initial=0))
    return scales.astype(np.float16)


def require_float16(largest: np.float32) -> None:
    """Raise `OverflowError` where the largest magnitude of scales is none that float16 holds."""
    if not largest < _INFINITE:
        raise OverflowError(f"a weight is too large for a float16 scale: that would be {largest:g}")


def inverse(values: Floats) -> Floats:
    """Return 1 / x, and 0 for 0 and for what is too small to have a finite inverse."""
    return np.divide(1, values, out=np.zeros_like(values), where=values >= _TINY)
