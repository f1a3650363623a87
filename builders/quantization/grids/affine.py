"""Unsigned codes in blocks along a row, each block with a float16 scale and a zero point: scale * (code - zero point).

MatMulNBits of onnxruntime and Core ML's constexpr_blockwise_shift_scale store a matrix so; each packs it its own way.

The range of a block's weights, 0 included, is tried in several widths, with the zero point where 0 falls; then the best
of them with the zero point one place next to it. For the codes c = code - zero point of a trial the scale of least
error is <w, c> / <c, c> in the scalar product that the importance defines, and that error is |w|² - <w, c>² / <c, c>:
the trial with the greatest <w, c>² / <c, c> wins. Scales are positive, because Core ML's compiler refuses negative ones
elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

SPANS = (1.05, 1.0, 0.95, 0.89, 0.83, 0.77, 0.71)  # widths of the range that are tried, as shares of the block's own
SHIFTS = (-1, 1)  # moves of the zero point, tried with the best of these widths
_TINY = np.finfo(np.float32).tiny
_LARGEST = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class AffineMatrix:
    """A matrix: codes [rows, columns], scales and zero points [rows, columns / block]."""

    codes: Bytes
    scales: NDArray[np.float16]
    zeros: Bytes

    def dequantized(self) -> Floats:
        """Return the weights [rows, columns]."""
        rows, blocks = self.scales.shape
        codes = self.codes.reshape(rows, blocks, -1).astype(np.float32) - self.zeros[..., None]
        return (codes * self.scales.astype(np.float32)[..., None]).reshape(rows, -1)


class AffineBlock:
    """Scales, as float16 holds them, and zero points, float32 [rows], of a block. Implements `FittedGrid`."""

    def __init__(self, scale: Floats, zero: Floats, top: int) -> None:
        self.scale = scale
        self.zero = zero
        self.top = np.float32(top)

    @property
    def scale(self) -> Floats:
        """The steps of the grid; positive, or 0 where a block is all zero."""
        return self._scale

    @scale.setter
    def scale(self, scale: Floats) -> None:
        self._scale, self._inverse = scale, inverse(scale)

    def nearest(self, column: int, weights: Floats) -> tuple[Bytes, Floats]:
        """Return codes and values [rows] of one column: see `FittedGrid`."""
        del column  # all of a block's are alike
        codes = self._whole(weights)
        return codes.astype(np.uint8), (codes - self.zero) * self.scale

    def codes(self, weights: Floats) -> Bytes:
        """Return the codes of the nearest values to weights [columns, rows]."""
        return self._whole(weights).astype(np.uint8)

    def _whole(self, weights: Floats) -> Floats:
        codes = weights * self._inverse
        np.rint(codes, out=codes)
        codes += self.zero
        np.maximum(codes, 0, out=codes)
        return np.minimum(codes, self.top, out=codes)


@dataclass(frozen=True)
class AffineGrid:
    """Blocks of `columns` elements with codes of `bits` bits. Implements `Grid`."""

    columns: int
    bits: int = 4

    def fit(self, weights: Floats, importance: Floats) -> AffineBlock:
        """Choose scale and zero point of each row's block [rows, columns]: see `Grid`."""
        top = (1 << self.bits) - 1
        block = np.ascontiguousarray(weights.T)
        weighting = importance.astype(np.float32)[:, None]
        weighted = block * weighting
        lowest, highest = np.minimum(block.min(axis=0), 0), np.maximum(block.max(axis=0), 0)
        plain = inverse((highest - lowest) / np.float32(top))
        gain, scale, zero, width = (np.zeros_like(plain) for _ in range(4))
        codes, product = np.empty_like(block), np.empty_like(block)
        for span, shift in (*((span, 0) for span in SPANS), *((None, shift) for shift in SHIFTS)):
            tried = np.clip(np.rint(-lowest * plain) + shift, 0, top)
            widths = width if span is None else np.full_like(plain, span)
            np.multiply(block, plain * inverse(widths), out=codes)
            np.rint(codes, out=codes)
            np.maximum(codes, -tried, out=codes)
            np.minimum(codes, top - tried, out=codes)
            along = np.einsum("cr,cr->r", codes, weighted)
            np.multiply(codes, codes, out=product)
            best = along * inverse(weighting[:, 0] @ product)
            better = along * best > gain
            np.copyto(gain, along * best, where=better)
            np.copyto(scale, best, where=better)
            np.copyto(zero, tried, where=better)
            if span is not None:
                np.copyto(width, widths, where=better)
        return AffineBlock(as_stored(scale), zero, top)

    def pack(self, blocks: Sequence[AffineBlock], codes: Bytes) -> tuple[Bytes, NDArray[np.float16], Bytes]:
        """Return codes [rows, columns], scales and zero points [rows, blocks]: see `Grid`."""
        scales = np.stack([block.scale for block in blocks], axis=1).astype(np.float16)
        return codes, scales, np.stack([block.zero for block in blocks], axis=1).astype(np.uint8)


def as_stored(scale: Floats) -> Floats:
    """Return scales as float16 holds them. Raises `OverflowError` where one is too large."""
    if scale.max(initial=0) > _LARGEST:
        raise OverflowError(f"a scale of {scale.max():g} is too large for float16")
    return scale.astype(np.float16).astype(np.float32)


def inverse(values: Floats) -> Floats:
    """Return 1 / x, and 0 for 0 and for what is too small to have a finite inverse."""
    return np.divide(1, values, out=np.zeros_like(values), where=values >= _TINY)
