"""How the Core ML recipes store each tensor of a checkpoint: the one place of that choice, and its bytes.

`coreml-int4` keeps every matrix as uint4 codes in blocks of 32 along a row, with a float16 scale and a uint4 offset
each: 4.625 bits a weight, the layout and the size of coremltools' `linear_quantize_weights` in its "linear" mode. Its
symmetric mode saves the offset, 2.8 % of the bytes, and costs half as much KL again (135M model: .57 for .36). A tied
embedding is stored once. Norms are float32, biases of matrices float16. A matrix whose rows are no multiple of the
block stays float16, as with coremltools.
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
    """Say how a tensor is stored: FLOAT16, FLOAT32 or UINT4. Raises `RecipeError` for another format's recipe."""
    if recipe.format != "coreml":
        raise RecipeError(f"{recipe.name} is not a Core ML recipe", fix="known: coreml-fp16, coreml-int4")
    if len(shape) == 1:
        return FLOAT16 if name.endswith("proj.bias") else FLOAT32
    return UINT4 if recipe.bits == 4 and shape[-1] % BLOCK_SIZE == 0 else FLOAT16


def plan(architecture: Architecture, recipe: Recipe) -> tuple[StoredWeight, ...]:
    """Give every tensor's storage and exact bytes (data and scales), in the order of the checkpoint."""
    return tuple(
        StoredWeight(name, storage, shape, sum(part_bytes(shape, storage)))
        for name, shape in architecture.tensor_shapes().items()
        for storage in (storage_of(name, shape, recipe),)
    )


def part_bytes(shape: tuple[int, ...], storage: str) -> tuple[int, ...]:
    """Bytes of each array that a tensor becomes in `weight.bin`: its data, and for UINT4 its scales and its offsets."""
    count = math.prod(shape)
    if storage == UINT4:
        blocks = count // BLOCK_SIZE
        return (count // 2, blocks * 2, (blocks + 1) // 2)
    return (count * (4 if storage == FLOAT32 else 2),)
