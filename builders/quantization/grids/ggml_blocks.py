"""ggml's blocks in numpy: scales and codes from their bytes, and codes put back into the bytes.

A weight is `scale * level[code] + offset` in float32, computed in that order, as ggml's own `dequantize_row_*` do:

    type      elements  that share a scale   levels                 offset
    Q4_0      32        32                   -8 … 7
    Q5_0      32        32                   -16 … 15
    Q5_1      32        32                   0 … 31                 a float16
    Q8_0      32        32                   -128 … 127
    IQ4_NL    32        32                   a table of 16
    IQ4_XS    256       32, of 6 bits        the same table
    Q3_K      256       16, of 6 bits        -4 … 3
    Q4_K      256       32, of 6 bits        0 … 15                 less 6 bits times a float16
    Q5_K      256       32, of 6 bits        0 … 31                 the same
    Q6_K      256       16, of 8 bits        -32 … 31

Scales of 6 or 8 bits are multiplied with the block's float16. Source: the structs in ggml's src/ggml-common.h, and
src/ggml-quants.c.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from targets.storage.gguf import TYPES, BlockType

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
# Of blocks [n, bytes]: the scales [n, groups], and offsets of the same shape where the type has them.
Scales = Callable[[Bytes], tuple[Floats, Floats | None]]

_IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)  # kvalues_iq4nl


@dataclass(frozen=True)
class BitField:
    """Bits `place` and up of every code of a block, `width` of them, in `count` bytes from `start`.

    The lowest bits of `run` bytes are those of the first `run` elements, the next bits those of the elements after
    them, and so on; then the next `run` bytes. `flipped`: these bits are inverted in the codes.
    """

    start: int
    count: int
    width: int
    run: int
    place: int = 0
    flipped: int = 0

    def codes_in(self, blocks: Bytes) -> Bytes:
        """Return this part of the codes of blocks [n, bytes], shifted to its place: uint8 [n, elements]."""
        runs = blocks[:, self.start : self.start + self.count].reshape(len(blocks), -1, 1, self.run)
        codes = (runs >> self._shifts) & self._mask
        return (codes.reshape(len(blocks), -1) ^ np.uint8(self.flipped)) << np.uint8(self.place)

    def put(self, codes: Bytes, blocks: Bytes) -> None:
        """Write this part of codes [n, elements] into blocks [n, bytes]."""
        part = ((codes >> np.uint8(self.place)) ^ np.uint8(self.flipped)) & self._mask
        runs = part.reshape(len(blocks), -1, 8 // self.width, self.run)
        whole = runs[:, :, 0].copy()
        for number in range(1, runs.shape[2]):
            whole |= runs[:, :, number] << np.uint8(number * self.width)
        blocks[:, self.start : self.start + self.count] = whole.reshape(len(blocks), -1)

    @property
    def _shifts(self) -> Bytes:
        return np.arange(0, 8, self.width, dtype=np.uint8)[:, None]

    @property
    def _mask(self) -> np.uint8:
        return np.uint8((1 << self.width) - 1)


@dataclass(frozen=True)
class Codec:
    """How a block type's bytes hold scales and codes.

    `levels`: what each code stands for, ascending. `lowest`: the smallest code that ggml itself writes.
    """

    kind: BlockType
    levels: tuple[int, ...]
    fields: tuple[BitField, ...]
    scales: Scales
    lowest: int = 0

    def codes(self, blocks: Bytes) -> Bytes:
        """Return the codes of blocks [n, bytes], one in a byte: [n, elements]."""
        found = self.fields[0].codes_in(blocks)
        for field in self.fields[1:]:
            found |= field.codes_in(blocks)
        return found

    def with_codes(self, blocks: Bytes, codes: Bytes) -> Bytes:
        """Return copies of blocks [n, bytes] whose scales are unchanged and whose codes are these, [n, elements]."""
        changed = blocks.copy()
        for field in self.fields:
            field.put(codes, changed)
        return changed

    def decode(self, blocks: Bytes) -> Floats:
        """Return the weights of blocks [n, bytes]: float32 [n, elements]."""
        scales, offsets = self.scales(blocks)
        levels = np.asarray(self.levels, dtype=np.float32)[self.codes(blocks)]
        length = self.kind.length // scales.shape[1]
        values = np.repeat(scales, length, axis=1) * levels
        return values if offsets is None else values + np.repeat(offsets, length, axis=1)


def _half(blocks: Bytes, start: int) -> Floats:
    """Return the float16 at a byte of each block, [n, 1]."""
    return np.ascontiguousarray(blocks[:, start : start + 2]).view("<f2").astype(np.float32)


def _one_scale(blocks: Bytes) -> tuple[Floats, None]:
    return _half(blocks, 0), None


def _scale_and_offset(blocks: Bytes) -> tuple[Floats, Floats]:
    return _half(blocks, 0), _half(blocks, 2)


def _scales_and_minima(blocks: Bytes) -> tuple[Floats, Floats]:
    """Q4_K and Q5_K: 8 scales and 8 minima of 6 bits in 12 bytes, the upper bits of the last four above the first."""
    first, second, last = (blocks[:, start : start + 4] for start in (4, 8, 12))
    scales = np.concatenate([first & 63, last & 15 | first >> 6 << 4], axis=1)
    minima = np.concatenate([second & 63, last >> 4 | second >> 6 << 4], axis=1)
    return _half(blocks, 0) * scales.astype(np.float32), -(_half(blocks, 2) * minima.astype(np.float32))


def _q3_scales(blocks: Bytes) -> tuple[Floats, None]:
    """16 scales of 6 bits: the low four as nibbles of 8 bytes, the upper two in the 4 bytes after them."""
    low, high = blocks[:, 96:104], blocks[:, 104:108]
    nibbles = np.concatenate([low & 15, low >> 4], axis=1)
    upper = np.concatenate([high >> shift & 3 for shift in (0, 2, 4, 6)], axis=1)
    scales = (nibbles | upper << 4).astype(np.float32) - 32
    return _half(blocks, 108) * scales, None


def _q6_scales(blocks: Bytes) -> tuple[Floats, None]:
    return _half(blocks, 208) * blocks[:, 192:208].view(np.int8).astype(np.float32), None


def _iq4_xs_scales(blocks: Bytes) -> tuple[Floats, None]:
    """8 scales of 6 bits: the low four as nibbles of 4 bytes, the upper two in the 2 bytes before them."""
    low, high = blocks[:, 4:8, None], blocks[:, 2:4, None]
    nibbles = (low >> np.array([0, 4], dtype=np.uint8) & 15).reshape(len(blocks), 8)
    upper = (high >> np.array([0, 2, 4, 6], dtype=np.uint8) & 3).reshape(len(blocks), 8)
    return _half(blocks, 0) * ((nibbles | upper << 4).astype(np.float32) - 32), None


def _centred(bits: int) -> tuple[int, ...]:
    return tuple(range(-(1 << bits - 1), 1 << bits - 1))


def _from_zero(bits: int) -> tuple[int, ...]:
    return tuple(range(1 << bits))


_NIBBLES, _BIT, _BITS = 4, 1, 2  # widths of bit fields

CODECS = {
    codec.kind.name: codec
    for codec in (
        Codec(TYPES["Q4_0"], _centred(4), (BitField(2, 16, _NIBBLES, 16),), _one_scale),
        Codec(TYPES["IQ4_NL"], _IQ4, (BitField(2, 16, _NIBBLES, 16),), _one_scale),
        Codec(TYPES["Q5_0"], _centred(5), (BitField(6, 16, _NIBBLES, 16), BitField(2, 4, _BIT, 1, 4)), _one_scale),
        Codec(
            TYPES["Q5_1"], _from_zero(5), (BitField(8, 16, _NIBBLES, 16), BitField(4, 4, _BIT, 1, 4)), _scale_and_offset
        ),
        Codec(TYPES["Q8_0"], _centred(8), (BitField(2, 32, 8, 32, flipped=0x80),), _one_scale, lowest=1),
        Codec(
            TYPES["Q3_K"], _centred(3), (BitField(32, 64, _BITS, 32), BitField(0, 32, _BIT, 32, place=2)), _q3_scales
        ),
        Codec(TYPES["Q4_K"], _from_zero(4), (BitField(16, 128, _NIBBLES, 32),), _scales_and_minima),
        Codec(
            TYPES["Q5_K"],
            _from_zero(5),
            (BitField(48, 128, _NIBBLES, 32), BitField(16, 32, _BIT, 32, place=4)),
            _scales_and_minima,
        ),
        Codec(
            TYPES["Q6_K"],
            _centred(6),
            (BitField(0, 128, _NIBBLES, 64), BitField(128, 64, _BITS, 32, place=4)),
            _q6_scales,
        ),
        Codec(TYPES["IQ4_XS"], _IQ4, (BitField(8, 128, _NIBBLES, 16),), _iq4_xs_scales),
    )
}
