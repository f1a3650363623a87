"""The ggml type of each tensor, as llama.cpp's own quantizer chooses it for its architectures phi3 and llama.

Source: `llama_tensor_get_type` in llama.cpp's src/llama-quant.cpp. Its mixture Q4_K_M uses Q6_K for the output and, in
the layers where `use_more_bits` is true, for attn_qkv (llama: attn_v) and ffn_down. In Llama's 70B it uses Q5_K for the
other attn_v. If the block length does not divide a row, the tensor gets a type with blocks of 32 instead, or F16 if 32
does not divide it either.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from targets.architecture import Architecture
from targets.errors import RecipeError, UnsupportedModelError
from targets.layouts import stored_shapes
from targets.recipes import RECIPES, Recipe
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
_DEFAULT = {"gguf-f16": "F16", "gguf-q8_0": "Q8_0", "gguf-q4_0": "Q4_0", "gguf-q4_k_m": "Q4_K"}
_FALLBACK = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
_OTHER_FORMATS = f"use one of {', '.join(name for name, recipe in RECIPES.items() if recipe.format != 'gguf')}"
_LAYERS_OF_70B = 80  # llama.cpp treats any Llama with 80 layers whose heads share keys as its LLM_TYPE_70B


def plan(architecture: Architecture, recipe: Recipe) -> tuple[StoredWeight, ...]:
    """Return the ggml type and bytes of every stored tensor, in the checkpoint's order.

    llama.cpp's files keep tensors as the family's checkpoints do: fused for Phi-3, separate for Llama.

    Raises:
        RecipeError: the recipe is not a GGUF recipe.
        UnsupportedModelError: llama.cpp can't run the architecture.
    """
    if architecture.family == "phi3small":
        raise UnsupportedModelError(
            "llama.cpp has no graph for Phi-3-small (block-sparse attention, GEGLU)",
            fix=_OTHER_FORMATS,
        )
    if architecture.family == "phi3" and architecture.query_width != architecture.hidden_size:
        raise UnsupportedModelError(
            f"llama.cpp's graph of Phi-3 loads no model whose heads together ({architecture.head_count} of "
            f"{architecture.head_dim} elements) are not as wide as the hidden size ({architecture.hidden_size})",
            fix=_OTHER_FORMATS,
        )
    stored = []
    for name, shape in stored_shapes(architecture).items():
        kind = TYPES[_fitting(_wanted(architecture, recipe, name, shape), shape[-1])]
        stored.append(StoredWeight(name, kind.name, shape, math.prod(shape) // kind.length * kind.bytes))
    return tuple(stored)


def fallback_notes(architecture: Architecture, recipe: Recipe) -> tuple[str, ...]:
    """Return a note for each type that is replaced by another, with the number of matrices and the reason."""
    replaced: Counter[tuple[str, str]] = Counter()
    weights = plan(architecture, recipe)
    for weight in weights:
        wanted = _wanted(architecture, recipe, weight.name, weight.shape)
        if wanted != weight.storage:
            replaced[wanted, weight.storage] += 1
    matrices = sum(len(weight.shape) == 2 for weight in weights)
    return tuple(
        f"{count} of {matrices} matrices have rows that blocks of {TYPES[wanted].length} don't divide: "
        f"{found} in place of {wanted}, as llama.cpp's quantizer does"
        for (wanted, found), count in sorted(replaced.items())
    )


def _wanted(architecture: Architecture, recipe: Recipe, name: str, shape: tuple[int, ...]) -> str:
    """Return the type that llama.cpp's mixture chooses, before the row length is checked."""
    if recipe.name not in _DEFAULT:
        raise RecipeError(f"{recipe.name} is not a GGUF recipe", fix=f"use one of {', '.join(_DEFAULT)}")
    default = _DEFAULT[recipe.name]
    if len(shape) == 1:
        return "F32"
    if name == architecture.head_tensor:
        return "Q6_K" if default in ("Q4_0", "Q4_K") else default
    sensitive = name.endswith(("v_proj.weight", "down_proj.weight"))  # qkv_proj is one of them
    if default == "Q4_K" and sensitive and _more_bits(int(name.split(".")[2]), architecture.layer_count):
        return "Q6_K"
    if default == "Q4_K" and name.endswith("v_proj.weight") and _is_70b(architecture):
        return "Q5_K"
    return default


def _is_70b(architecture: Architecture) -> bool:
    shares_keys = architecture.kv_head_count != architecture.head_count
    return architecture.family == "llama" and architecture.layer_count == _LAYERS_OF_70B and shares_keys


def _fitting(name: str, columns: int) -> str:
    for kind in (name, _FALLBACK.get(name, name)):
        if columns % TYPES[kind].length == 0:
            return kind
    return "F16"


def _more_bits(layer: int, layers: int) -> bool:
    """Return llama.cpp's `use_more_bits`: True in the first and last eighth of the layers and every third between."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2
