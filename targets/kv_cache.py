"""The types in which a runtime can keep its KV cache: keys and values of all positions read so far.

The type is part of a recipe (`Recipe.kv_cache`) and of the bundle's manifest.

GGUF: the type changes no file: whoever opens the bundle opens it with this type.
llama.cpp takes these types for keys and values (`kv_cache_types` in its common/arg.cpp), and has kernels of flash
attention for them on CPUs and Apple's GPUs. It takes IQ4_NL as well, but has no such kernel on these GPUs. Blocks have
32 values, with a float16 scale, and for _1 a float16 minimum (ggml/src/ggml-common.h); they must divide a head's width
(src/llama-context.cpp). Values can be quantized with flash attention only: without it, they are stored transposed.

ONNX: the type is that of the graph's own inputs and outputs. GroupQueryAttention stores int8 with a scale for each
element of a head (`k_quant_type` and `v_quant_type` PER_CHANNEL in docs/ContribOperators.md of microsoft/onnxruntime),
and the scales are constants of the graph. SparseAttention has no such cache.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from targets.architecture import Architecture
from targets.errors import RecipeError, UnsupportedModelError, did_you_mean
from targets.recipes import Format, Recipe
from targets.storage import onnx


@dataclass(frozen=True)
class CacheType:
    """One way to store a value of the cache: `block_bytes` for each block of `block_size` values of a head."""

    name: str
    block_bytes: int
    block_size: int = 32


_F16 = CacheType("f16", 2, 1)
_GGUF = (
    _F16,
    CacheType("q8_0", 2 + 32),
    CacheType("q5_1", 2 + 2 + 4 + 16),
    CacheType("q5_0", 2 + 4 + 16),
    CacheType("q4_1", 2 + 2 + 16),
    CacheType("q4_0", 2 + 16),
)
INT8 = CacheType("int8", 1, 1)
_FLOATS = {"float16": _F16, "float32": CacheType("f32", 4, 1)}  # by the type of an ONNX graph's attention
# The quantized types of each format. One without an entry has no other than its own.
CACHE_TYPES: dict[Format, dict[str, CacheType]] = {
    "gguf": {kind.name: kind for kind in _GGUF},
    "onnx": {INT8.name: INT8},
}


def cache_types(recipe: Recipe) -> dict[str, CacheType]:
    """Return the types that a recipe can have, by name: the default first. Empty where there is nothing to choose."""
    types = CACHE_TYPES.get(recipe.format, {})
    if recipe.format != "onnx":
        return types
    own = _FLOATS[onnx.cache_dtype(recipe)]
    return {own.name: own, **types}


def with_kv_cache(recipe: Recipe, name: str) -> Recipe:
    """Return a recipe whose runtime keeps the KV cache in a type. The format's default is the recipe as it is.

    Raises:
        RecipeError: the format has no such type.
    """
    kind = _type_named(recipe, name)
    return replace(recipe, kv_cache="" if kind is _default(recipe) else kind.name)


def check_kv_cache(architecture: Architecture, recipe: Recipe) -> None:
    """Check that a model's heads can be stored in the recipe's type of KV cache.

    Raises:
        RecipeError: the format has no such type, or its blocks do not divide the width of a head.
        UnsupportedModelError: an operator that the model needs has no such cache.
    """
    if not recipe.kv_cache:
        return
    kind = _type_named(recipe, recipe.kv_cache)
    if architecture.head_dim % kind.block_size:
        raise RecipeError(
            f"{recipe.name} with a KV cache in {kind.name}: heads of {architecture.head_dim} values are no multiple of "
            f"its blocks of {kind.block_size}",
            fix=f"use the default, {_default(recipe).name}: no other type can store this model's heads",
        )
    if recipe.format == "onnx" and architecture.block_sparse is not None:
        raise UnsupportedModelError(
            f"{recipe.name} with a KV cache in {kind.name}: this model needs SparseAttention, which has floats only",
            fix=f"use the default, {_default(recipe).name}",
        )


def kv_cache_bytes(architecture: Architecture, recipe: Recipe, tokens: int) -> int:
    """Return the bytes of keys and values of `tokens` positions, in the type that the recipe's runtime stores.

    Raises:
        RecipeError, UnsupportedModelError: see `check_kv_cache`.
    """
    if recipe.kv_cache:
        check_kv_cache(architecture, recipe)
        kind = _type_named(recipe, recipe.kv_cache)
        return architecture.kv_cache_bytes(tokens, bytes_per_value=1) // kind.block_size * kind.block_bytes
    value_bytes = _default(recipe).block_bytes if recipe.format == "onnx" else 2
    return architecture.kv_cache_bytes(tokens, bytes_per_value=value_bytes)


def _type_named(recipe: Recipe, name: str) -> CacheType:
    types = cache_types(recipe)
    if not types:
        raise RecipeError(
            f"{recipe.name} with a KV cache in {name}: the type can be chosen for GGUF and ONNX recipes only",
            fix=f"remove the type of the KV cache for {recipe.name}, or choose a GGUF or ONNX recipe",
        )
    if name not in types:
        raise RecipeError(f"{recipe.name}: unknown type of KV cache {name!r}", fix=did_you_mean(name, types))
    return types[name]


def _default(recipe: Recipe) -> CacheType:
    return next(iter(cache_types(recipe).values()))
