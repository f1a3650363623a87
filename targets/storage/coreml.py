"""How the Core ML recipes store each tensor of a checkpoint, and in how many bytes. This is decided only here.

`coreml-int4` stores every matrix as uint4 codes in blocks of 32 along a row, each block with a float16 scale and a
uint4 offset: 4.625 bits per weight, the layout and the size of coremltools' `linear_quantize_weights` in its "linear"
mode. Its symmetric mode saves the offset, 2.8 % of the bytes, but raises the KL divergence by half (135M model: from
.36 to .57). A tied embedding is stored once. Norms are float32, biases of matrices float16. A matrix whose row length
is no multiple of the block size stays float16, as with coremltools.
"""

from __future__ import annotations

import math

from targets.architecture import Architecture
from targets.errors import RecipeError
from targets.recipes import Recipe
from targets.storage import StoredWeight

BLOCK_SIZE = 32
FLOAT16 = "float16"
FLOAT32 = "float32"
UINT4 = f"uint4 block {BLOCK_SIZE}"


def storage_of(name: str, shape: tuple[int, ...], recipe: Recipe) -> str:
    """Return how a tensor is stored: FLOAT16, FLOAT32 or UINT4. Raises `RecipeError` for another format's recipe."""
    if recipe.format != "coreml":
        raise RecipeError(f"{recipe.name} is not a Core ML recipe", fix="use coreml-fp16 or coreml-int4")
    if len(shape) == 1:
        return FLOAT16 if name.endswith("proj.bias") else FLOAT32
    return UINT4 if recipe.bits == 4 and shape[-1] % BLOCK_SIZE == 0 else FLOAT16


def plan(architecture: Architecture, recipe: Recipe) -> tuple[StoredWeight, ...]:
    """Return the storage and exact bytes (data and scales) of every tensor, in the order of the checkpoint."""
    return tuple(
        StoredWeight(name, storage, shape, sum(part_bytes(shape, storage)))
        for name, shape in architecture.tensor_shapes().items()
        for storage in (storage_of(name, shape, recipe),)
    )


def part_bytes(shape: tuple[int, ...], storage: str) -> tuple[int, ...]:
    """Return the bytes of each array of a tensor in `weight.bin`: its data, and for UINT4 its scales and offsets."""
    count = math.prod(shape)
    if storage == UINT4:
        blocks = count // BLOCK_SIZE
        return (count // 2, blocks * 2, (blocks + 1) // 2)
    return (count * (4 if storage == FLOAT32 else 2),)
