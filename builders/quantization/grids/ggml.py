"""ggml's block types as grids: ggml chooses a block's scales, `rounding/` its codes.

Scales come from ggml's own search (`ggml_quantize_chunk`, with an importance for each column), so that what is stored
is a block that llama.cpp's quantizer could have written. Codes are the nearest values on it, or what `rounding/` makes
of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from builders.quantization.grids.ggml_blocks import CODECS, Codec
from builders.quantization.grids.ggml_search import encode_some
from builders.quantization.levels import Levels
from targets.storage.gguf import TYPES

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class FittedBlocks:
    """One block in each row, whose scales are chosen. `blocks`: its bytes, [rows, bytes]."""

    codec: Codec
    blocks: Bytes

    @property
    def levels(self) -> Levels:
        """The values that its columns may take: see `FittedGrid`."""
        found, offsets = self.codec.scales(self.blocks)
        scales = np.ascontiguousarray(found.T)
        levels = np.asarray(self.codec.levels, dtype=np.float32)
        table = levels[:0] if len(levels) == levels[-1] - levels[0] + 1 else levels
        return Levels(
            scales=scales,
            inverses=np.divide(np.float32(1), scales, out=np.zeros_like(scales), where=scales != 0),
            offsets=np.zeros_like(scales) if offsets is None else np.ascontiguousarray(offsets.T),
            shared=self.codec.kind.length // len(scales),
            bases=np.full(scales.shape[1], levels[0]),
            lowest=np.float32(self.codec.lowest),
            highest=np.float32(len(levels) - 1),
            table=table,
            borders=(table[1:] + table[:-1]) / np.float32(2),
        )


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
        blocks = encode_some(weights, TYPES[self.kind], name=self.name, importance=importance)
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
