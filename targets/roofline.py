"""Predicted decoding speed of a device, limited by how fast it reads weights and KV cache from memory.

    tokens/s = efficiency * bandwidth / (bytes of weights read per token + bytes of keys and values read per token)

Each token reads every matrix once, except an untied embedding, of which it reads one row. The efficiency depends on the
chip and the runtime. It is learned from published and measured speeds (`targets/speeds/`), with an interval: that of
the speed follows from it. A target's file states an efficiency, too: its author's estimate, which counts as one more
figure there unless the chip and runtime have figures already. One that is not confirmed may be off by a factor of 1.5
(one standard deviation).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from targets.architecture import Architecture
from targets.devices import Target
from targets.fit import weight_bytes
from targets.kv_cache import kv_cache_bytes
from targets.recipes import Format, Recipe
from targets.speeds import Efficiency, Observation, efficiency_of, published_observations, runtime_of
from targets.storage.plans import plan_of

CONTEXT_TOKENS = 512  # positions in the cache for which speeds are predicted
_ESTIMATE_ERROR = 0.4  # of an efficiency that is not confirmed: standard deviation of its logarithm


@dataclass(frozen=True)
class PredictedSpeed:
    """Tokens per second: the middle, and the ends of an interval that holds 80 % of the probability."""

    value: float
    low: float
    high: float
    efficiency: Efficiency


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


def decode_speed(
    architecture: Architecture, recipe: Recipe, target: Target, measured: Sequence[Observation] = ()
) -> PredictedSpeed:
    """Predict decoding with `CONTEXT_TOKENS` positions in the cache. `recipe.format` must be one of the target's.

    `measured`: observations in addition to the published ones.
    """
    efficiency = _efficiency(target, recipe.format, measured)
    read = bytes_per_token(architecture, recipe, min(CONTEXT_TOKENS, architecture.context_length))
    value, low, high = (
        tokens_per_second(share, target.memory_bandwidth.value, read)
        for share in (efficiency.value, efficiency.low, efficiency.high)
    )
    return PredictedSpeed(value, low, high, efficiency)


def _efficiency(target: Target, format_name: Format, measured: Sequence[Observation]) -> Efficiency:
    runtime, stated = runtime_of(format_name), target.decode_efficiency[format_name]
    known = (*published_observations(), *measured)
    if not any((one.soc, one.runtime) == (target.soc, runtime) for one in known):
        error = 0.0 if stated.confirmed else _ESTIMATE_ERROR
        known = (*known, Observation(target.soc, runtime, stated.value, f"{target.name}'s file", error))
    return efficiency_of(known, target.soc, runtime)
