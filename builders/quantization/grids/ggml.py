"""ggml's block types as grids: ggml chooses a block's scales, `rounding/` its codes.

Scales come from ggml's own search (`ggml_quantize_chunk`, with an importance for each column), so that what is stored
is a block that llama.cpp's quantizer could have written. Codes are the nearest values on it, or what `rounding/` makes
of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from builders.quantization.ggml_library import encode_rows
from builders.quantization.grids.ggml_blocks import CODECS, Codec
from targets.storage.gguf import TYPES

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class FittedBlocks:
    """One block in each row, whose scales are chosen. `blocks`: its bytes, [rows, bytes]."""

    codec: Codec
    blocks: Bytes

    def nearest(self, column: int, weights: Floats) -> tuple[Bytes, Floats]:
        """Return the codes of the nearest values and these values, [rows] each, of one column of the block.

        Where the scale is 0, so that all codes stand for one value, the code is that of the level next to 0.
        """
        scale, inverse, offset = (part[column // self._shared] for part in self._grids)
        wanted = (weights - offset) * inverse
        levels = self._levels
        if self._is_even:
            codes = np.clip(np.rint(wanted - levels[0]), self.codec.lowest, len(levels) - 1).astype(np.uint8)
        else:
            codes = np.searchsorted(self._borders, wanted).astype(np.uint8)
        return codes, scale * levels[codes] + offset

    @property
    def _shared(self) -> int:
        """The number of elements that share a scale."""
        return self.codec.kind.length // len(self._grids[0])

    @cached_property
    def _grids(self) -> tuple[Floats, Floats, Floats]:
        """Scales, their reciprocals (0 for 0) and offsets, [groups, rows] each."""
        scales, offsets = self.codec.scales(self.blocks)
        scales = np.ascontiguousarray(scales.T)
        inverse = np.divide(np.float32(1), scales, out=np.zeros_like(scales), where=scales != 0)
        return scales, inverse, np.zeros_like(scales) if offsets is None else np.ascontiguousarray(offsets.T)

    @cached_property
    def _levels(self) -> Floats:
        return np.asarray(self.codec.levels, dtype=np.float32)

    @cached_property
    def _borders(self) -> Floats:
        """Halfway between levels."""
        borders: Floats = (self._levels[1:] + self._levels[:-1]) / np.float32(2)
        return borders

    @property
    def _is_even(self) -> bool:
        return len(self.codec.levels) == self.codec.levels[-1] - self.codec.levels[0] + 1


@dataclass(frozen=True)
class GgmlGrid:
    """The blocks of one ggml type. `name`: the tensor's, for errors."""

    kind: str
    name: str

    @property
    def columns(self) -> int:
        """Elements of a row in one block."""
        return TYPES[self.kind].length

    def fit(self, weights: Floats, importance: Floats) -> FittedBlocks:
        """Let ggml choose the scales of a block of columns.

        Args:
            weights: [rows, columns].
            importance: how much the squared error of each column counts, [columns].

        Raises:
            CheckpointError: a weight is too large for the type.
        """
        blocks = encode_rows(weights, TYPES[self.kind], name=self.name, importance=importance)
        return FittedBlocks(CODECS[self.kind], blocks)

    def pack(self, fitted: Sequence[FittedBlocks], codes: Bytes) -> tuple[Bytes]:
        """Return rows as ggml stores them, [rows, bytes]: fitted blocks from the left, codes [rows, all columns]."""
        codec = CODECS[self.kind]
        blocks = [
            codec.with_codes(one.blocks, codes[:, start : start + self.columns])
            for one, start in zip(fitted, range(0, codes.shape[1], self.columns), strict=True)
        ]
        return (np.concatenate(blocks, axis=1),)


def decode(raw: Bytes, kind: str, columns: int) -> Floats:
    """Return the weights [rows, columns] that llama.cpp computes with, from a matrix's bytes, row after row."""
    codec = CODECS[kind]
    return codec.decode(raw.reshape(-1, codec.kind.bytes)).reshape(-1, columns)
