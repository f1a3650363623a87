"""Predicted decoding speed of a device, limited by how fast it reads weights and KV cache from memory.

    tokens/s = efficiency * bandwidth / (bytes of weights read per token + bytes of keys and values read per token)

Each token reads every matrix once, except an untied embedding, of which it reads one row. The efficiency depends on the
device and the format, and comes from published measurements where there are any (targets/devices).

A prediction states its error. Two published runtimes on one chip, the Snapdragon 8 Gen 3, reach .37 (QNN, Qualcomm AI
Hub) and .65 (ExecuTorch on the CPU) of the bandwidth. Without a published figure for the format on the chip, the speed
may therefore be 50 % lower or higher. With one, the measured models and contexts still differ from ours.
"""

from __future__ import annotations

from targets.architecture import Architecture
from targets.devices import Quantity, Target
from targets.fit import kv_cache_bytes, weight_bytes
from targets.recipes import Recipe
from targets.storage.plans import plan_of

PUBLISHED_ERROR_SHARE = 0.25
INFERRED_ERROR_SHARE = 0.5
CONTEXT_TOKENS = 512  # positions in the cache for which speeds are predicted


def bytes_per_token(architecture: Architecture, recipe: Recipe, context_tokens: int) -> int:
    """Return the bytes read from memory to decode one token with `context_tokens` positions in the cache."""
    weights = weight_bytes(architecture, recipe)
    if not architecture.tied_embeddings:
        embedding = next(w.bytes for w in plan_of(architecture, recipe) if w.name == "model.embed_tokens.weight")
        weights -= embedding - embedding // architecture.vocabulary_size
    return weights + kv_cache_bytes(architecture, recipe, context_tokens)


def tokens_per_second(efficiency: float, bandwidth: float, bytes_read: float) -> float:
    """Return the speed in tokens per second.

    `efficiency` is the share of `bandwidth`, in bytes per second, that is reached. `bytes_read` is per token.
    """
    return efficiency * bandwidth / bytes_read


def decode_tokens_per_second(architecture: Architecture, recipe: Recipe, target: Target) -> float:
    """Predict decoding with `CONTEXT_TOKENS` positions in the cache. `recipe.format` must be one of the target's."""
    read = bytes_per_token(architecture, recipe, min(CONTEXT_TOKENS, architecture.context_length))
    return tokens_per_second(target.decode_efficiency[recipe.format].value, target.memory_bandwidth.value, read)


def error_share(efficiency: Quantity) -> float:
    """Return the error of a prediction, as a share of it."""
    return PUBLISHED_ERROR_SHARE if efficiency.confirmed else INFERRED_ERROR_SHARE
