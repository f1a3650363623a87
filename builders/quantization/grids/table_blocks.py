"""Codes into a table, in blocks along a row that have a float16 scale each: scale * table[code].

Core ML stores a matrix so: `constexpr_lut_to_dense`, whose values `constexpr_blockwise_shift_scale` multiplies. Here a
table is known, and scales are searched for; `rounding.block_tables` finds the table. Scales are positive, as those of
the affine grid are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from builders.quantization.grids.affine import as_stored, inverse
from builders.quantization.levels import Levels

Floats = NDArray[np.float32]
Halves = NDArray[np.float16]
Codes = NDArray[np.uint8]

_WHOLE_BLOCK = 1 << 30  # more columns than a block has: all share a scale
# Where the largest weight of a block is laid, relative to the table's end.
TRIALS = tuple(number / 100 for number in (70, 76, 82, 88, 94, 100, 106, 113, 121, 130))


@dataclass
class TableBlock:
    """A block's scales, as float16 holds them, [rows], and the table of its rows. Implements `FittedGrid`."""

    scale: Floats
    table: Floats

    @property
    def levels(self) -> Levels:
        """The values that its columns may take: see `FittedGrid`."""
        scales = self.scale[None]
        return Levels(
            scales=scales,
            inverses=inverse(scales),
            offsets=np.zeros_like(scales),
            shared=_WHOLE_BLOCK,
            bases=np.zeros_like(self.scale),
            lowest=np.float32(0),
            highest=np.float32(len(self.table) - 1),
            table=self.table,
            borders=((self.table[1:] + self.table[:-1]) * np.float32(0.5)).astype(np.float32),
        )

    def in_scales(self, codes: Codes, rows: slice) -> Floats:  # noqa: ARG002 - as `AffineBlock` has it
        """Return the values of codes [columns, rows] in units of their scales."""
        return self.table[codes]


@dataclass(frozen=True)
class TableGrid:
    """Blocks of `columns` elements with values of a `table`, which is ascending. Implements `Grid`."""

    table: Floats
    columns: int

    def fit(self, weights: Floats, importance: Floats) -> TableBlock:
        """Choose the scale of each row's block [rows, columns]: see `Grid`."""
        from builders.quantization.kernels.block_search import lanes_of

        scales = self.scales(np.ascontiguousarray(weights), lanes_of(importance, self.columns))
        return TableBlock(scales.astype(np.float32), self.table)

    def scales(self, blocks: Floats, importance: Floats) -> Halves:
        """Return the scales of blocks [blocks, columns of a block], row after row, with an importance in lanes.

        Raises:
            OverflowError: a weight is too large for a float16 scale.
        """
        from builders.quantization.kernels.table_scales import search_scales

        found = np.empty(len(blocks), np.float32)
        search_scales(blocks, importance, np.array(TRIALS, np.float32), self.table, found)
        return as_stored(found)

    def pack(self, blocks: Sequence[TableBlock], codes: Codes) -> tuple[Codes, Halves]:
        """Return codes [rows, columns] and scales [rows, blocks]: see `Grid`."""
        return codes, np.stack([block.scale for block in blocks], axis=1).astype(np.float16)
