"""How the Core ML recipes store each tensor of a checkpoint, and in how many bytes. This is decided only here.

`coreml-int4` stores every matrix as uint4 codes in blocks of 32 along a row, each block with a float16 scale and a
uint4 offset: 4.625 bits per weight, the layout and the size of coremltools' `linear_quantize_weights` in its "linear"
mode. Its symmetric mode saves the offset, 2.8 % of the bytes, but raises the KL divergence by half (135M model: from
.36 to .57). A tied embedding is stored once. Norms are float32, biases of matrices float16. A matrix whose row length
is no multiple of the block size stays float16, as with coremltools.

`coreml-palettized4` stores every matrix as 4-bit codes into tables of 16 float16 values. `TABLE_ROWS` rows share one
(as many as divide the rows, where that is fewer), and each row has a float16 scale: 4.02 to 4.1 bits per weight. This
is `palettize_weights` of coremltools with grouped channels and a scale a channel, which Apple recommends for the Neural
Engine (coremltools' optimization overview).

Types that were chosen for a budget (`Recipe.types`) replace these: other sizes of blocks, codes and offsets of 8 bits,
and codes of 3 or 4 bits into tables of 8 or 16 float16 values, which `TABLE_BLOCK_ROWS` rows share (as many as divide
the rows, where that is fewer), with a scale for each block instead of each row: 3.25 to 5 bits per weight. 3-bit codes
need iOS 18, as every recipe does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from targets.architecture import Architecture
from targets.errors import RecipeError
from targets.recipes import Recipe
from targets.storage import Candidate, StoredWeight, padded, require_candidate

BLOCK_SIZE = 32
ALIGNMENT = 64  # bytes; where each array of `weight.bin` begins, after as many bytes that describe it
FLOAT16 = "float16"
FLOAT32 = "float32"


@dataclass(frozen=True)
class Blocks:
    """Unsigned codes of 4 or 8 bits in blocks of `size` along a row, each with a float16 scale and an offset."""

    bits: int
    size: int

    @property
    def label(self) -> str:
        """Its name in manifests and tables."""
        return f"uint{self.bits} block {self.size}"


@dataclass(frozen=True)
class Tables:
    """Codes of 4 bits into tables of 16 float16 values, which `rows` rows share, and a float16 scale a row."""

    rows: int

    @property
    def label(self) -> str:
        """Its name in manifests and tables."""
        return f"table of 16 for {self.rows} rows"


@dataclass(frozen=True)
class TableBlocks:
    """Codes of 3 or 4 bits into tables of float16 values, in blocks of `size` along a row with a float16 scale each."""

    bits: int
    size: int

    @property
    def label(self) -> str:
        """Its name in manifests and tables."""
        return f"table of {1 << self.bits} block {self.size}"

    @staticmethod
    def rows_of(shape: tuple[int, ...]) -> int:
        """Return how many rows of a matrix share a table."""
        return math.gcd(shape[0], TABLE_BLOCK_ROWS)


UINT4 = Blocks(4, BLOCK_SIZE).label
TABLE_ROWS = 8
_TABLES = {tables.label: tables for tables in (Tables(1 << power) for power in range(TABLE_ROWS.bit_length()))}
# In `full` on the 135M model, tables of 8 rows have 1.4 (3 bits) to 3.7 % (4 bits) less error than those of 64, for .7
# to 1.1 % more bytes and four times the seconds.
TABLE_BLOCK_ROWS = 64
# What a budget chooses among.
TABLE_CANDIDATES = tuple(TableBlocks(3, size) for size in (64, 32)) + tuple(
    TableBlocks(4, size) for size in (64, 32, 16)
)
CANDIDATES = tuple(Blocks(4, size) for size in (64, 32, 16)) + tuple(Blocks(8, size) for size in (128, 64, 32))
_BLOCKS = {blocks.label: blocks for blocks in CANDIDATES}
_TABLE_BLOCKS = {blocks.label: blocks for blocks in TABLE_CANDIDATES}


def blocks_of(storage: str) -> Blocks | None:
    """Return the blocks of a storage; None where it has none."""
    return _BLOCKS.get(storage)


def tables_of(storage: str) -> Tables | None:
    """Return the tables of a storage; None where it has none."""
    return _TABLES.get(storage)


def table_blocks_of(storage: str) -> TableBlocks | None:
    """Return the blocks with tables of a storage; None where it has none."""
    return _TABLE_BLOCKS.get(storage)


def storage_of(name: str, shape: tuple[int, ...], recipe: Recipe) -> str:
    """Return how a tensor is stored: FLOAT16, FLOAT32 or the label of blocks or tables.

    Raises:
        RecipeError: another format's recipe, or a chosen type that the matrix can't have.
    """
    if recipe.format != "coreml":
        raise RecipeError(
            f"{recipe.name} is not a Core ML recipe", fix="use coreml-fp16, coreml-int4 or coreml-palettized4"
        )
    if len(shape) == 1:
        return FLOAT16 if name.endswith("proj.bias") else FLOAT32
    if (chosen := dict(recipe.types).get(name)) is not None:
        require_candidate(name, chosen, _candidates(shape))
        return chosen
    if recipe.name == "coreml-palettized4" and recipe.budget is None:
        return Tables(math.gcd(shape[0], TABLE_ROWS)).label
    return UINT4 if recipe.bits == 4 and shape[-1] % BLOCK_SIZE == 0 else FLOAT16


def plan(architecture: Architecture, recipe: Recipe) -> tuple[StoredWeight, ...]:
    """Return the storage and exact bytes (data and scales) of every tensor, in the order of the checkpoint."""
    return tuple(
        StoredWeight(name, storage, shape, sum(part_bytes(shape, storage)))
        for name, shape in architecture.tensor_shapes().items()
        for storage in (storage_of(name, shape, recipe),)
    )


def part_bytes(shape: tuple[int, ...], storage: str) -> tuple[int, ...]:
    """Return the bytes of each array of a tensor in `weight.bin`: its data, tables, and scales."""
    count, blocks = math.prod(shape), blocks_of(storage)
    if (lookups := table_blocks_of(storage)) is not None:
        tables = shape[0] // lookups.rows_of(shape)
        return (math.ceil(count * lookups.bits / 8), (tables << lookups.bits) * 2, count // lookups.size * 2)
    if (shared := tables_of(storage)) is not None:
        return (math.ceil(count / 2), shape[0] // shared.rows * 16 * 2, shape[0] * 2)
    if blocks is None:
        return (count * (4 if storage == FLOAT32 else 2),)
    scales = count // blocks.size
    return (count * blocks.bits // 8, scales * 2, math.ceil(scales * blocks.bits / 8))


def candidates(name: str, architecture: Architecture) -> tuple[Candidate, ...]:
    """Return the ways to store a matrix, by its canonical name: blocks that divide its rows, else float16."""
    return _candidates(architecture.tensor_shapes()[name])


def _candidates(shape: tuple[int, ...]) -> tuple[Candidate, ...]:
    every: tuple[Blocks | TableBlocks, ...] = (*TABLE_CANDIDATES, *CANDIDATES)
    storages = [blocks.label for blocks in every if shape[1] % blocks.size == 0] or [FLOAT16]
    found = []
    for storage in storages:
        parts = part_bytes(shape, storage)
        in_file = sum(ALIGNMENT + padded(size, ALIGNMENT) for size in parts)
        found.append(Candidate(storage, sum(parts), in_file, (storage,)))
    return tuple(found)
