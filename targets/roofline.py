"""How fast a device would decode: bound by how fast it reads weights and KV cache from memory.

    tokens/s = efficiency * bandwidth / (bytes of weights read a token + bytes of keys and values read a token)

Each token reads every matrix once, but of an untied embedding a single row. The efficiency is a device's and a
format's, from published measurements where there are any (targets/devices). The error is what published figures on one chip
scatter by; it is stated with every prediction.
"""

from __future__ import annotations

from targets.architecture import Architecture
from targets.devices import Target
from targets.fit import kv_cache_bytes, weight_bytes
from targets.recipes import Recipe
from targets.storage.plans import plan_of

ERROR_SHARE = 0.25
CONTEXT_TOKENS = 512  # positions in the cache for which speeds are predicted


def bytes_per_token(architecture: Architecture, recipe: Recipe, context_tokens: int) -> int:
    """Bytes read from memory to decode one token with so many positions in the cache."""
    weights = weight_bytes(architecture, recipe)
    if not architecture.tied_embeddings:
        embedding = next(w.bytes for w in plan_of(architecture, recipe) if w.name == "model.embed_tokens.weight")
        weights -= embedding - embedding // architecture.vocabulary_size
    return weights + kv_cache_bytes(architecture, recipe, context_tokens)


def decode_tokens_per_second(architecture: Architecture, recipe: Recipe, target: Target) -> float:
    """Predict decoding with `CONTEXT_TOKENS` positions in the cache. `recipe.format` must be one of the target's."""
    share = target.decode_efficiency[recipe.format].value
    return share * target.memory_bandwidth.value / bytes_per_token(architecture, recipe, CONTEXT_TOKENS)
