"""Which ggml type each tensor gets, as llama.cpp's own quantizer chooses for a model of architecture phi3.

Source: `llama_tensor_get_type` in llama.cpp's src/llama-quant.cpp. Its mixture Q4_K_M gives Q6_K to the output and, in
the layers where `use_more_bits` holds, to attn_qkv and ffn_down. Rows that no block fits fall back to a type with
blocks of 32, and to F16 where those don't fit either.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from targets.architecture import Architecture
from targets.recipes import Recipe
from targets.storage import StoredWeight


@dataclass(frozen=True)
class BlockType:
    """A ggml type: `number` in enum ggml_type; `length` elements of a row take `bytes`."""

    name: str
    number: int
    length: int
    bytes: int


TYPES = {
    kind.name: kind
    for kind in (
        BlockType("F32", 0, 1, 4),
        BlockType("F16", 1, 1, 2),
        BlockType("Q4_0", 2, 32, 18),
        BlockType("Q5_0", 6, 32, 22),
        BlockType("Q5_1", 7, 32, 24),
        BlockType("Q8_0", 8, 32, 34),
        BlockType("Q4_K", 12, 256, 144),
        BlockType("Q5_K", 13, 256, 176),
        BlockType("Q6_K", 14, 256, 210),
    )
}
DEFAULT_TYPE = {"gguf-f16": "F16", "gguf-q8_0": "Q8_0", "gguf-q4_0": "Q4_0", "gguf-q4_k_m": "Q4_K"}
FALLBACK = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}


def plan(architecture: Architecture, recipe: Recipe) -> tuple[StoredWeight, ...]:
    """Give every tensor's ggml type and bytes, in the checkpoint's order."""
    stored = []
    for name, shape in architecture.tensor_shapes().items():
        kind = TYPES[_fitting(wanted_type(architecture, recipe, name), shape[-1])]
        stored.append(StoredWeight(name, kind.name, shape, math.prod(shape) // kind.length * kind.bytes))
    return tuple(stored)


def wanted_type(architecture: Architecture, recipe: Recipe, name: str) -> str:
    """Give the type that the recipe asks for, before a row's length is looked at."""
    default = DEFAULT_TYPE[recipe.name]
    if len(architecture.tensor_shapes()[name]) == 1:
        return "F32"
    if name == architecture.head_tensor:
        return _head_type(default, architecture.hidden_size)
    if default != "Q4_K" or name == "model.embed_tokens.weight":
        return default
    layer = int(name.split(".")[2])
    sensitive = name.endswith(("qkv_proj.weight", "down_proj.weight"))
    return "Q6_K" if sensitive and _more_bits(layer, architecture.layer_count) else default


def fallback_notes(architecture: Architecture, recipe: Recipe) -> tuple[str, ...]:
    """Say which types stand in for others, how often, and why; nothing where all rows fit."""
    replaced: Counter[tuple[str, str]] = Counter()
    for weight in plan(architecture, recipe):
        wanted = _before_fallback(architecture, recipe, weight.name)
        if wanted != weight.storage:
            replaced[wanted, weight.storage] += 1
    matrices = sum(len(shape) == 2 for shape in architecture.tensor_shapes().values())
    return tuple(
        f"{count} of {matrices} matrices have rows that blocks of {TYPES[wanted].length} don't divide: "
        f"{found} in place of {wanted}, as llama.cpp's quantizer does"
        for (wanted, found), count in sorted(replaced.items())
    )


def _before_fallback(architecture: Architecture, recipe: Recipe, name: str) -> str:
    """The type before any row's length is looked at: the head's choice of Q8_0 counts as a fallback from Q6_K."""
    wanted = wanted_type(architecture, recipe, name)
    if name == architecture.head_tensor and DEFAULT_TYPE[recipe.name] in ("Q4_0", "Q4_K"):
        return "Q6_K"
    return wanted


def _head_type(default: str, columns: int) -> str:
    if default in ("F16", "Q8_0"):
        return default
    return "Q8_0" if columns % TYPES[default].length else "Q6_K"


def _fitting(name: str, columns: int) -> str:
    if columns % TYPES[name].length == 0:
        return name
    fallback = FALLBACK.get(name, name)
    return fallback if columns % TYPES[fallback].length == 0 else "F16"


def _more_bits(layer: int, layers: int) -> bool:
    """llama.cpp's `use_more_bits`: the first and last eighth of the layers, and every third between."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2
