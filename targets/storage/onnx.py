"""How the ONNX recipes store each tensor of a checkpoint: the one place of that choice, and its bytes.

`onnx-int4` keeps every matrix in MatMulNBits' layout (builders/onnx/quantize.py): 4-bit codes in blocks of 32, each with
a zero point and a float16 scale, are 4.625 bits a weight, where the usual float32 scales alone make 5. The head and the
embedding have 8 bits; where they are tied they are stored once.
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


Storage = Plain | Blocks

_MATRIX: dict[str, Storage] = {"onnx-fp16": Plain("float16"), "onnx-int4": Blocks(bits=4, size=32, zero_points=True)}
_EMBEDDING_AND_HEAD: dict[str, Storage] = {
    "onnx-fp16": Plain("float16"),
    "onnx-int4": Blocks(bits=8, size=32, zero_points=False),
}
_NORM = Plain("float32")
# Float16 halves the cache; on a CPU float32 is a quarter faster, and is what onnxruntime-genai's own int4 models keep.
_CACHE = {"onnx-fp16": "float16", "onnx-int4": "float32"}


def storage_of(name: str, recipe: Recipe) -> Storage:
    """Say how a tensor is stored, by its Hugging Face name. Raises `RecipeError` for another format's recipe."""
    if recipe.name not in _MATRIX:
        raise RecipeError(f"{recipe.name} is not an ONNX recipe", fix=f"known: {', '.join(_MATRIX)}")
    if name.endswith("norm.weight"):
        return _NORM
    if name in ("model.embed_tokens.weight", "lm_head.weight"):
        return _EMBEDDING_AND_HEAD[recipe.name]
    return _MATRIX[recipe.name]


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
        storage = storage_of(name, recipe)
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
        storage = storage_of(name, recipe)
        if isinstance(storage, Blocks) and shape[1] % storage.size:
            raise UnsupportedModelError(
                f"{recipe.name}: rows of {name!r} have {shape[1]} elements, no multiple of the block of {storage.size}",
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
        sizes.extend(storage_of(name, recipe).part_bytes(shape))
    return sum(math.ceil(size / ALIGNMENT) * ALIGNMENT for size in sizes[:-1]) + sizes[-1]
