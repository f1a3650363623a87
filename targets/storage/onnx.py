"""How the ONNX recipes store each tensor of a checkpoint, and in how many bytes. This is decided only here.

`onnx-int4` stores matrices in MatMulNBits' layout (builders/onnx/quantize.py): 4-bit codes in blocks of 32, each with a
zero point and a float16 scale. That is 4.625 bits per weight; the usual float32 scales, without zero points, take 5.
The saved bytes pay for 8 bits where they improve accuracy most: the value rows of qkv, the head, and the embedding
(stored once if tied). On SmolLM2-135M value rows in 8 bits lower the mean KL divergence from .28 to .20 for 2 % more
bytes. `onnx-int8` stores all matrices in those blocks of 8 bits. Types that were chosen for a budget (`Recipe.types`)
replace these.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from targets.architecture import Architecture, BlockSparse, Family
from targets.errors import RecipeError, UnsupportedModelError
from targets.recipes import Recipe
from targets.storage import Candidate, StoredWeight, padded, require_candidate

ALIGNMENT = 4096  # bytes; a memory page, so that a runtime can map a tensor in place
# GroupQueryAttention's head is a multiple of 16, and so is the part of it that it rotates, twice the tables' width.
HEAD_DIM_STEP = 16
SPARSE_BLOCK_SIZES = (16, 32, 64, 128)  # tokens; what SparseAttention's schema allows
_ITEM_BYTES = {"float16": 2, "float32": 4, "uint8": 1, "int32": 4}


@dataclass(frozen=True)
class ArrayShape:
    """One array of the data file. `part`: which part of a tensor it is, empty for a whole tensor."""

    part: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Size without padding."""
        return math.prod(self.shape) * _ITEM_BYTES[self.dtype]


@dataclass(frozen=True)
class Plain:
    """Elements without quantization: `dtype` is float16 or float32."""

    dtype: str

    @property
    def label(self) -> str:
        """Its name in manifests and tables."""
        return self.dtype

    def arrays(self, shape: tuple[int, ...]) -> tuple[ArrayShape, ...]:
        """Return the single array of the tensor."""
        return (ArrayShape("", self.dtype, shape),)


@dataclass(frozen=True)
class Blocks:
    """Codes of 4 or 8 bits in blocks of `size` along a row.

    Each block has a float16 scale, and a zero point if `zero_points` is set.
    """

    bits: int
    size: int
    zero_points: bool

    @property
    def label(self) -> str:
        """Its name in manifests and tables."""
        kind = "uint" if self.zero_points else "int"
        return f"{kind}{self.bits} block {self.size}"

    def arrays(self, shape: tuple[int, ...]) -> tuple[ArrayShape, ...]:
        """Return the codes, scales and, if there are any, zero points of a matrix."""
        rows, columns = shape
        blocks = columns // self.size
        parts = (
            ArrayShape("codes", "uint8", (rows, blocks, self.size * self.bits // 8)),
            ArrayShape("scales", "float16", (rows, blocks)),
        )
        if not self.zero_points:
            return parts
        return (*parts, ArrayShape("zero_points", "uint8", (rows, math.ceil(blocks * self.bits / 8))))


@dataclass(frozen=True)
class Stacked:
    """Groups of rows, from the top, each in its own kind of blocks."""

    groups: tuple[tuple[int, Blocks], ...]  # number of rows, and how they are stored

    @property
    def label(self) -> str:
        """Its name in manifests and tables."""
        return ", ".join(f"{rows} rows {blocks.label}" for rows, blocks in self.groups)

    def arrays(self, shape: tuple[int, ...]) -> tuple[ArrayShape, ...]:
        """Return the arrays of all groups, group by group."""
        return tuple(
            ArrayShape(f"{number}.{array.part}", array.dtype, array.shape)
            for number, (rows, blocks) in enumerate(self.groups)
            for array in blocks.arrays((rows, shape[1]))
        )


Storage = Plain | Blocks | Stacked

FOUR_BITS = Blocks(bits=4, size=32, zero_points=True)
# The largest that divides a row is used: 8 bits lose almost nothing by it, and MatMulNBits runs 128 a fifth faster
# than 32.
_EIGHT_BIT_SIZES = (128, 64, 32)
# What a budget chooses among. With zero points 8 bits gain nothing, and 4 bits much.
CANDIDATES = tuple(Blocks(4, size, zero_points=True) for size in (128, 64, 32, 16)) + tuple(
    Blocks(8, size, zero_points=False) for size in _EIGHT_BIT_SIZES
)
_VECTOR = Plain("float32")  # norms and biases
# Float16 halves the cache; on a CPU float32 is a quarter faster, and onnxruntime-genai's own int4 models use it.
_CACHE = {"onnx-fp16": "float16", "onnx-int8": "float32", "onnx-int4": "float32"}
_OTHER_FORMAT: dict[Family, str] = {  # llama.cpp has no graph for Phi-3-small
    "phi3": "build it with a Core ML or GGUF recipe",
    "llama": "build it with a Core ML or GGUF recipe",
    "phi3small": "build it with a Core ML recipe",
}


def storage_of(name: str, architecture: Architecture, recipe: Recipe) -> Storage:
    """Return how a tensor is stored, by its Hugging Face name. Raises `RecipeError` for another format's recipe."""
    if recipe.name not in _CACHE:
        raise RecipeError(f"{recipe.name} is not an ONNX recipe", fix=f"use one of {', '.join(_CACHE)}")
    if name.endswith(("norm.weight", ".bias")):
        return _VECTOR
    if recipe.name == "onnx-fp16":
        return Plain("float16")
    if (chosen := dict(recipe.types).get(name)) is not None:
        require_candidate(name, chosen, candidates(name, architecture))
        return next(storage for storage in _possible(name, architecture) if storage.label == chosen)
    return _usual(name, architecture, recipe)


def _usual(name: str, architecture: Architecture, recipe: Recipe) -> Blocks | Stacked:
    """Return how a recipe stores a matrix without a budget."""
    if name in ("model.embed_tokens.weight", "lm_head.weight"):
        return _eight_bits(architecture.hidden_size)
    if recipe.name == "onnx-int8":
        return _eight_bits(architecture.tensor_shapes()[name][1])
    if name.endswith("qkv_proj.weight") and _spends_on_values(architecture, layer=int(name.split(".")[2])):
        return _values_in_8_bits(architecture)
    return FOUR_BITS


def candidates(name: str, architecture: Architecture) -> tuple[Candidate, ...]:
    """Return the ways to store a matrix: blocks that divide its rows, and for qkv two kinds; none if no block does."""
    shape = architecture.tensor_shapes()[name]
    found = []
    for storage in _possible(name, architecture):
        sizes = [array.bytes for array in storage.arrays(shape)]
        groups = [blocks for _, blocks in storage.groups] if isinstance(storage, Stacked) else [storage]
        in_file = sum(padded(size, ALIGNMENT) for size in sizes)
        found.append(Candidate(storage.label, sum(sizes), in_file, tuple(blocks.label for blocks in groups)))
    return tuple(found)


def _possible(name: str, architecture: Architecture) -> list[Blocks | Stacked]:
    """Return how a matrix can be stored."""
    columns = architecture.tensor_shapes()[name][1]
    found: list[Blocks | Stacked] = [blocks for blocks in CANDIDATES if columns % blocks.size == 0]
    if name.endswith("qkv_proj.weight") and columns % FOUR_BITS.size == 0:
        found.append(_values_in_8_bits(architecture))
    return found


def _values_in_8_bits(architecture: Architecture) -> Stacked:
    """Return qkv with the value rows in 8 bits, the others in 4."""
    above = architecture.query_width + architecture.kv_width
    return Stacked(((above, FOUR_BITS), (architecture.kv_width, _eight_bits(architecture.hidden_size))))


def _eight_bits(columns: int) -> Blocks:
    size = next((size for size in _EIGHT_BIT_SIZES if columns % size == 0), _EIGHT_BIT_SIZES[-1])
    return Blocks(bits=8, size=size, zero_points=False)


def _spends_on_values(architecture: Architecture, *, layer: int) -> bool:
    """Return whether a layer stores its value rows in 8 bits.

    True in all layers if query heads share values, otherwise in the outer eighths only: mini stays under 2.35 GB.
    """
    if architecture.kv_head_count < architecture.head_count:
        return True
    outer = architecture.layer_count // 8
    return layer < outer or layer >= architecture.layer_count - outer


def cache_dtype(recipe: Recipe) -> str:
    """Return the element type of attention and of the rotary tables, float16 or float32: the KV cache's by default."""
    return _CACHE[recipe.name]


def plan(architecture: Architecture, recipe: Recipe) -> tuple[StoredWeight, ...]:
    """Return the storage of each tensor with its exact data bytes (no padding), in file order.

    Raises:
        UnsupportedModelError: blocks or the attention operator don't support a width.
    """
    check(architecture, recipe)
    weights = []
    for name, shape in architecture.tensor_shapes().items():
        storage = storage_of(name, architecture, recipe)
        size = sum(array.bytes for array in storage.arrays(shape))
        weights.append(StoredWeight(name=name, storage=storage.label, shape=shape, bytes=size))
    return tuple(weights)


def check(architecture: Architecture, recipe: Recipe) -> None:
    """Check that the operators can run the model. Raises `UnsupportedModelError`."""
    if architecture.head_dim % HEAD_DIM_STEP or architecture.rotary_dim % HEAD_DIM_STEP:
        raise UnsupportedModelError(
            f"{recipe.name}: heads of {architecture.head_dim} elements, {architecture.rotary_dim} of them rotated; "
            f"GroupQueryAttention rotates multiples of {HEAD_DIM_STEP}",
            fix=_OTHER_FORMAT[architecture.family],
        )
    sparse = architecture.block_sparse
    if sparse is not None and sparse.block_size not in SPARSE_BLOCK_SIZES:
        raise UnsupportedModelError(
            f"{recipe.name}: sparse attention in blocks of {sparse.block_size} tokens; SparseAttention supports "
            f"{', '.join(map(str, SPARSE_BLOCK_SIZES))}",
            fix=_OTHER_FORMAT[architecture.family],
        )
    for name, shape in architecture.tensor_shapes().items():
        storage = storage_of(name, architecture, recipe)
        block = FOUR_BITS.size
        if not isinstance(storage, Plain) and shape[1] % block:
            raise UnsupportedModelError(
                f"{recipe.name}: rows of {name!r} have {shape[1]} elements, not a multiple of the block size {block}",
                fix=f"use onnx-fp16; or {_OTHER_FORMAT[architecture.family]}",
            )


def rotary_rows(architecture: Architecture, context_length: int) -> int:
    """Return the rows of the cosine and sine tables: one for each position.

    If the context goes past longrope's edge, the positions up to the edge have one for each set of factors.
    """
    return context_length + (architecture.longrope_edge(context_length) or 0)


def layout_count(architecture: Architecture, sparse: BlockSparse) -> int:
    """Return the number of patterns. Heads use them in turn, and SparseAttention requires that it divides the heads."""
    heads, stride = architecture.head_count, sparse.vertical_stride
    return stride if heads % stride == 0 else heads


def sparse_arrays(architecture: Architecture, context_length: int) -> tuple[ArrayShape, ...]:
    """Return the index arrays of SparseAttention, int32 [patterns, …]: row starts and columns.

    Empty if every position of the context attends to all earlier ones: a sparse layer is then written as a dense one.
    """
    sparse = architecture.effective_sparsity(context_length)
    if sparse is None:
        return ()
    blocks, layouts = math.ceil(context_length / sparse.block_size), layout_count(architecture, sparse)
    widest = max(sum(_blocks_seen(sparse, head, row) for row in range(blocks)) for head in range(layouts))
    return (
        ArrayShape("block_rows", "int32", (layouts, blocks + 1)),
        ArrayShape("block_columns", "int32", (layouts, widest)),
    )


def _blocks_seen(sparse: BlockSparse, head: int, row: int) -> int:
    """Return how many blocks a block of queries sees: the local ones, and every `vertical_stride`th before them."""
    before = max(row + 1 - sparse.local_blocks, 0)
    return row + 1 - before + (before + head) // sparse.vertical_stride - head // sparse.vertical_stride


def hidden_arrays(architecture: Architecture) -> tuple[ArrayShape, ...]:
    """Return the array that is added to the logits to hide ids: float32 [vocabulary]. Empty if no id is hidden."""
    if not architecture.hidden_token_ids:
        return ()
    return (ArrayShape("", "float32", (architecture.vocabulary_size,)),)


def rotary_arrays(architecture: Architecture, recipe: Recipe, context_length: int) -> tuple[ArrayShape, ...]:
    """Return the tables of cosines and sines, [rows, rotary_dim / 2] in the cache's type."""
    shape = (rotary_rows(architecture, context_length), architecture.rotary_dim // 2)
    return tuple(ArrayShape(part, cache_dtype(recipe), shape) for part in ("cosines", "sines"))


def cache_scale_arrays(architecture: Architecture, recipe: Recipe) -> tuple[ArrayShape, ...]:
    """Return the scales of a layer's keys and values, float32 [elements]; empty where the KV cache holds floats."""
    if not recipe.has_scaled_cache:
        return ()
    return tuple(ArrayShape(part, "float32", (architecture.kv_width,)) for part in ("keys", "values"))


def data_bytes(architecture: Architecture, recipe: Recipe, context_length: int) -> int:
    """Return the exact bytes of `model.onnx.data`: all arrays, each padded to `ALIGNMENT` except the last."""
    arrays = [
        *rotary_arrays(architecture, recipe, context_length),
        *sparse_arrays(architecture, context_length),
        *hidden_arrays(architecture),
        *cache_scale_arrays(architecture, recipe) * architecture.layer_count,
    ]
    for name, shape in architecture.tensor_shapes().items():
        arrays.extend(storage_of(name, architecture, recipe).arrays(shape))
    return sum(padded(array.bytes, ALIGNMENT) for array in arrays[:-1]) + arrays[-1].bytes
