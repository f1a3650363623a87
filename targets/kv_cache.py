"""The types in which a runtime can keep its KV cache: keys and values of all positions read so far.

The type is part of a recipe (`Recipe.kv_cache`) and of the bundle's manifest. It changes no file: whoever opens the
bundle opens it with this type. Each format without a type is kept as its runtime does by default.

GGUF: llama.cpp takes these types for keys and values (`kv_cache_types` in its common/arg.cpp), and has kernels of flash
attention for them on CPUs and Apple's GPUs. It takes IQ4_NL as well, but has no such kernel on these GPUs. Blocks have
32 values, with a float16 scale, and for _1 a float16 minimum (ggml/src/ggml-common.h); they must divide a head's width
(src/llama-context.cpp). Values can be quantized with flash attention only: without it, they are stored transposed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from targets.architecture import Architecture
from targets.errors import RecipeError, did_you_mean
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
# The first type of a format is its default. A format without an entry has no other than its own.
CACHE_TYPES: dict[Format, dict[str, CacheType]] = {"gguf": {kind.name: kind for kind in _GGUF}}


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


def kv_cache_bytes(architecture: Architecture, recipe: Recipe, tokens: int) -> int:
    """Return the bytes of keys and values of `tokens` positions, in the type that the recipe's runtime stores.

    Raises:
        RecipeError: see `check_kv_cache`.
    """
    if recipe.kv_cache:
        check_kv_cache(architecture, recipe)
        kind = _type_named(recipe, recipe.kv_cache)
        return architecture.kv_cache_bytes(tokens, bytes_per_value=1) // kind.block_size * kind.block_bytes
    value_bytes = onnx.cache_value_bytes(recipe) if recipe.format == "onnx" else 2
    return architecture.kv_cache_bytes(tokens, bytes_per_value=value_bytes)


def _type_named(recipe: Recipe, name: str) -> CacheType:
    types = CACHE_TYPES.get(recipe.format)
    if types is None:
        raise RecipeError(
            f"{recipe.name} with a KV cache in {name}: the type of the cache can be chosen for GGUF recipes only",
            fix=f"remove the type of the KV cache for {recipe.name}, or choose a GGUF recipe",
        )
    if name not in types:
        raise RecipeError(f"{recipe.name}: unknown type of KV cache {name!r}", fix=did_you_mean(name, types))
    return types[name]


def _default(recipe: Recipe) -> CacheType:
    return next(iter(CACHE_TYPES[recipe.format].values()))
