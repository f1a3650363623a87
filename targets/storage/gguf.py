"""The ggml type of each tensor, as llama.cpp's own quantizer chooses it for its architectures phi3 and llama.

Source: `llama_tensor_get_type` in llama.cpp's src/llama-quant.cpp. All but Q8_0 and F16 store the output in Q6_K. Its
mixtures store these differently from the rest, "values" being attn_qkv (llama: attn_v):

    Q4_K_M, Q5_K_M    values and ffn_down in Q6_K, in the layers where `use_more_bits` is true
    Q3_K_M            values in Q5_K in the first two layers, else Q4_K; ffn_down in Q5_K in the first sixteenth, else
                      Q4_K; attn_output in Q4_K
    IQ4_NL            values in Q5_K where four query heads or more share a key head; ffn_down in Q5_K in the first
                      eighth

In Llama's 70B values that would be Q4_K are Q5_K. If the block length does not divide a row, the tensor gets a type
with blocks of 32 instead, or F16 if 32 does not divide it either.

With an importance matrix llama.cpp's choice differs in Q4_0 (ffn_down of the first eighth in Q4_1) and IQ4_NL (none of
it in Q5_K). A calibrated build keeps the types, so that its size does not depend on the calibration.

Types that were chosen for a budget (`Recipe.types`) replace the mixture's.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from targets.architecture import Architecture
from targets.errors import RecipeError, UnsupportedModelError
from targets.layouts import canonical_names, sources_of, stored_shapes
from targets.recipes import RECIPES, Recipe
from targets.storage import Candidate, StoredWeight, padded, require_candidate


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
        BlockType("Q3_K", 11, 256, 110),
        BlockType("Q4_K", 12, 256, 144),
        BlockType("Q5_K", 13, 256, 176),
        BlockType("Q6_K", 14, 256, 210),
        BlockType("IQ4_NL", 20, 32, 18),
        BlockType("IQ4_XS", 23, 256, 136),
    )
}
_DEFAULT = {
    "gguf-f16": "F16",
    "gguf-q8_0": "Q8_0",
    "gguf-q6_k": "Q6_K",
    "gguf-q5_k_m": "Q5_K",
    "gguf-q4_k_m": "Q4_K",
    "gguf-q4_0": "Q4_0",
    "gguf-iq4_nl": "IQ4_NL",
    "gguf-q3_k_m": "Q3_K",
}
_FALLBACK = {"Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0", "IQ4_XS": "IQ4_NL"}
_OTHER_FORMATS = f"use one of {', '.join(name for name, recipe in RECIPES.items() if recipe.format != 'gguf')}"
# What a budget chooses among: types that take rows of any weights in their range, smallest first.
CANDIDATES = ("Q3_K", "IQ4_XS", "Q4_0", "IQ4_NL", "Q4_K", "Q5_0", "Q5_K", "Q5_1", "Q6_K", "Q8_0")
ALIGNMENT = 32  # bytes; where a tensor's data begins in a file
_LAYERS_OF_70B = 80  # llama.cpp treats any Llama with 80 layers whose heads share keys as its LLM_TYPE_70B
_Q3_LAYERS_WITH_FIVE_BITS = 2
_SHARED_WIDELY = 4  # query heads per key head


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
    stored, chosen = [], _chosen(architecture, recipe)
    for name, shape in stored_shapes(architecture).items():
        kind = TYPES[chosen.get(name) or _fitting(_wanted(architecture, recipe, name, shape), shape[-1])]
        stored.append(StoredWeight(name, kind.name, shape, math.prod(shape) // kind.length * kind.bytes))
    return tuple(stored)


def fallback_notes(architecture: Architecture, recipe: Recipe) -> tuple[str, ...]:
    """Return a note for each type that is replaced by another, with the number of matrices and the reason."""
    replaced: Counter[tuple[str, str]] = Counter()
    weights, chosen = plan(architecture, recipe), _chosen(architecture, recipe)
    for weight in weights:
        wanted = chosen.get(weight.name) or _wanted(architecture, recipe, weight.name, weight.shape)
        if wanted != weight.storage:
            replaced[wanted, weight.storage] += 1
    matrices = sum(len(weight.shape) == 2 for weight in weights)
    return tuple(
        f"{count} of {matrices} matrices have rows that blocks of {TYPES[wanted].length} don't divide: "
        f"{found} in place of {wanted}, as llama.cpp's quantizer does"
        for (wanted, found), count in sorted(replaced.items())
    )


def candidates(name: str, architecture: Architecture) -> tuple[Candidate, ...]:
    """Return the ways to store a matrix, by its canonical name: the types whose blocks divide a row, else F16."""
    shape = architecture.tensor_shapes()[name]
    kinds = [TYPES[kind] for kind in CANDIDATES if shape[1] % TYPES[kind].length == 0] or [TYPES["F16"]]
    parts = [math.prod(shape) for _, shape in sources_of(architecture, name, shape).parts]
    return tuple(
        Candidate(
            kind.name,
            sum(count // kind.length * kind.bytes for count in parts),
            sum(padded(count // kind.length * kind.bytes, ALIGNMENT) for count in parts),
            (kind.name,),
        )
        for kind in kinds
    )


def _chosen(architecture: Architecture, recipe: Recipe) -> dict[str, str]:
    """Return the types that were chosen for a budget, by the names of stored tensors.

    Raises:
        RecipeError: a type that the matrix can't have.
    """
    types, found = dict(recipe.types), {}
    for stored, canonical in canonical_names(architecture).items() if types else ():
        if canonical in types:
            require_candidate(canonical, types[canonical], candidates(canonical, architecture))
            found[stored] = types[canonical]
    return found


def _wanted(architecture: Architecture, recipe: Recipe, name: str, shape: tuple[int, ...]) -> str:
    """Return the type that llama.cpp's mixture chooses, before the row length is checked."""
    if recipe.name not in _DEFAULT:
        raise RecipeError(f"{recipe.name} is not a GGUF recipe", fix=f"use one of {', '.join(_DEFAULT)}")
    default = _DEFAULT[recipe.name]
    if len(shape) == 1:
        return "F32"
    if name == architecture.head_tensor:
        return default if default in ("F16", "Q8_0") else "Q6_K"
    if name.endswith("v_proj.weight"):  # qkv_proj is one of them
        return _of_values(default, architecture, layer=int(name.split(".")[2]))
    if name.endswith("down_proj.weight"):
        return _of_down(default, int(name.split(".")[2]), architecture.layer_count)
    return "Q4_K" if default == "Q3_K" and name.endswith("o_proj.weight") else default


def _of_values(default: str, architecture: Architecture, *, layer: int) -> str:
    """Return the type of a layer's attn_qkv or attn_v."""
    chosen = default
    if default == "Q3_K":
        chosen = "Q5_K" if layer < _Q3_LAYERS_WITH_FIVE_BITS else "Q4_K"
    elif default == "IQ4_NL" and architecture.head_count // architecture.kv_head_count >= _SHARED_WIDELY:
        chosen = "Q5_K"
    elif default in ("Q4_K", "Q5_K") and _more_bits(layer, architecture.layer_count):
        chosen = "Q6_K"
    return "Q5_K" if chosen == "Q4_K" and _is_70b(architecture) else chosen


def _of_down(default: str, layer: int, layers: int) -> str:
    """Return the type of a layer's ffn_down."""
    if default == "Q3_K":
        return "Q5_K" if layer < layers // 16 else "Q4_K"
    if default == "IQ4_NL":
        return "Q5_K" if layer < layers // 8 else default
    return "Q6_K" if default in ("Q4_K", "Q5_K") and _more_bits(layer, layers) else default


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
