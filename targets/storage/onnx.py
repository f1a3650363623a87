"""How the ONNX recipes store each tensor of a checkpoint: the one place of that choice, and its bytes.

`onnx-int4` keeps matrices in MatMulNBits' layout (builders/onnx/quantize.py): 4-bit codes in blocks of 32, each with a
zero point and a float16 scale, are 4.625 bits a weight, where the usual float32 scales alone make 5. What is saved goes
to 8 bits where they tell most: the rows of qkv that give the values, the head, and the embedding (stored once where
tied). On SmolLM2-135M value rows in 8 bits take the mean KL divergence from .28 to .20 for 2 % more bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from targets.architecture import Architecture
from targets.errors import RecipeError, UnsupportedModelError
from targets.recipes import Recipe
from targets.storage import StoredWeight

ALIGNMENT = 4096  # bytes; a memory page, so that a runtime can map a tensor where it lies
HEAD_DIM_STEP = 16  # GroupQueryAttention rotates halves of a head, each a multiple of 8
_FLOAT_BYTES = {"float16": 2, "float32": 4}


@dataclass(frozen=True)
class Plain:
    """Elements as they are: `dtype` is float16 or float32."""

    dtype: str

    @property
    def label(self) -> str:
        """What manifests and tables call it."""
        return self.dtype

    def part_bytes(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Bytes of each array that the tensor becomes."""
        return (math.prod(shape) * _FLOAT_BYTES[self.dtype],)


@dataclass(frozen=True)
class Blocks:
    """Codes of 4 or 8 bits in blocks of `size` along a row, a float16 scale each, and a zero point each if so said."""

    bits: int
    size: int
    zero_points: bool

    @property
    def label(self) -> str:
        """What manifests and tables call it."""
        kind = "uint" if self.zero_points else "int"
        return f"{kind}{self.bits} block {self.size}"

    def part_bytes(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Bytes of codes, scales and, where there are any, zero points."""
        rows, columns = shape
        blocks = columns // self.size
        parts = (rows * columns * self.bits // 8, rows * blocks * 2)
        return (*parts, rows * math.ceil(blocks * self.bits / 8)) if self.zero_points else parts


@dataclass(frozen=True)
class Stacked:
    """Groups of rows, from the top, each in blocks of its own kind."""

    groups: tuple[tuple[int, Blocks], ...]  # rows and how they are stored

    @property
    def label(self) -> str:
        """What manifests and tables call it."""
        return ", ".join(f"{rows} rows {blocks.label}" for rows, blocks in self.groups)

    def part_bytes(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Bytes of the arrays of all groups."""
        return tuple(size for rows, blocks in self.groups for size in blocks.part_bytes((rows, shape[1])))


Storage = Plain | Blocks | Stacked

FOUR_BITS = Blocks(bits=4, size=32, zero_points=True)
EIGHT_BITS = Blocks(bits=8, size=32, zero_points=False)
_NORM = Plain("float32")
# Float16 halves the cache; on a CPU float32 is a quarter faster, and is what onnxruntime-genai's own int4 models keep.
_CACHE = {"onnx-fp16": "float16", "onnx-int4": "float32"}


def storage_of(name: str, architecture: Architecture, recipe: Recipe) -> Storage:
    """Say how a tensor is stored, by its Hugging Face name. Raises `RecipeError` for another format's recipe."""
    if recipe.name not in _CACHE:
        raise RecipeError(f"{recipe.name} is not an ONNX recipe", fix=f"known: {', '.join(_CACHE)}")
    if name.endswith("norm.weight"):
        return _NORM
    if recipe.name == "onnx-fp16":
        return Plain("float16")
    if name in ("model.embed_tokens.weight", "lm_head.weight"):
        return EIGHT_BITS
    if name.endswith("qkv_proj.weight") and _spends_on_values(architecture, layer=int(name.split(".")[2])):
        above = architecture.query_width + architecture.kv_width
        return Stacked(((above, FOUR_BITS), (architecture.kv_width, EIGHT_BITS)))
    return FOUR_BITS


def _spends_on_values(architecture: Architecture, *, layer: int) -> bool:
    """All layers where query heads share few values; else the outer eighths: mini stays under 2.35 GB."""
    if architecture.kv_head_count < architecture.head_count:
        return True
    outer = architecture.layer_count // 8
    return layer < outer or layer >= architecture.layer_count - outer


def cache_dtype(recipe: Recipe) -> str:
    """Element type of keys, values and rotary tables: float16 or float32."""
    return _CACHE[recipe.name]


def cache_value_bytes(recipe: Recipe) -> int:
    """Bytes of one value of the KV cache, for `Architecture.kv_cache_bytes`."""
    return _FLOAT_BYTES[cache_dtype(recipe)]


def plan(architecture: Architecture, recipe: Recipe) -> tuple[StoredWeight, ...]:
    """Say what each tensor becomes, with its exact data bytes (no padding), in file order.

    Raises:
        UnsupportedModelError: a width that blocks or the attention operator can't take.
    """
    check(architecture, recipe)
    weights = []
    for name, shape in architecture.tensor_shapes().items():
        storage = storage_of(name, architecture, recipe)
        weights.append(
            StoredWeight(name=name, storage=storage.label, shape=shape, bytes=sum(storage.part_bytes(shape)))
        )
    return tuple(weights)


def check(architecture: Architecture, recipe: Recipe) -> None:
    """Refuse what the operators can't run. Raises `UnsupportedModelError`."""
    if architecture.head_dim % HEAD_DIM_STEP:
        raise UnsupportedModelError(
            f"{recipe.name}: heads of {architecture.head_dim} elements; GroupQueryAttention rotates multiples of "
            f"{HEAD_DIM_STEP}",
            fix="build a GGUF recipe of it",
        )
    for name, shape in architecture.tensor_shapes().items():
        storage = storage_of(name, architecture, recipe)
        block = FOUR_BITS.size
        if not isinstance(storage, Plain) and shape[1] % block:
            raise UnsupportedModelError(
                f"{recipe.name}: rows of {name!r} have {shape[1]} elements, no multiple of the block of {block}",
                fix="build onnx-fp16, or a GGUF recipe",
            )


def longrope_edge(architecture: Architecture, context_length: int) -> int | None:
    """Longest sequence in tokens that takes longrope's short factors; None where the context does not pass it."""
    rope = architecture.longrope
    return None if rope is None or context_length <= rope.original_context else rope.original_context


def rotary_rows(architecture: Architecture, context_length: int) -> int:
    """Rows of the cosine and sine tables: one a position, for short and for long factors where the context has both."""
    return context_length + (longrope_edge(architecture, context_length) or 0)


def data_bytes(architecture: Architecture, recipe: Recipe, context_length: int) -> int:
    """Size of `model.onnx.data` to the byte: all arrays, each at a multiple of `ALIGNMENT`, the last unpadded."""
    rotary = rotary_rows(architecture, context_length) * (architecture.head_dim // 2) * cache_value_bytes(recipe)
    sizes = [rotary, rotary]
    for name, shape in architecture.tensor_shapes().items():
        sizes.extend(storage_of(name, architecture, recipe).part_bytes(shape))
    return sum(math.ceil(size / ALIGNMENT) * ALIGNMENT for size in sizes[:-1]) + sizes[-1]
