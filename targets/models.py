"""The released Phi-3 models that need no checkpoint to ask what fits: their shapes, from Microsoft's public configs."""

from __future__ import annotations

from dataclasses import replace

from targets.architecture import Architecture, LongRope
from targets.errors import UnsupportedModelError, did_you_mean

_MINI_4K = Architecture(
    name="Phi3ForCausalLM",
    layer_count=32,
    hidden_size=3072,
    intermediate_size=8192,
    head_count=32,
    kv_head_count=32,
    head_dim=96,
    vocabulary_size=32064,
    context_length=4096,
    rope_theta=10000.0,
    norm_epsilon=1e-5,
    tied_embeddings=False,
    sliding_window=2047,
)
_MEDIUM_4K = replace(
    _MINI_4K, layer_count=40, hidden_size=5120, intermediate_size=17920, head_count=40, kv_head_count=10, head_dim=128
)


def _long(short: Architecture, window: int) -> Architecture:
    """The 128k variant. The factor lists differ by release and are not needed for sizes: left empty."""
    rope = LongRope(short=(), long=(), original_context=4096, attention_factor=1.190238)
    return replace(short, context_length=131072, sliding_window=window, longrope=rope)


KNOWN_MODELS = {
    "phi-3-mini-4k-instruct": _MINI_4K,
    "phi-3-mini-128k-instruct": _long(_MINI_4K, 262144),
    "phi-3-medium-4k-instruct": _MEDIUM_4K,
    "phi-3-medium-128k-instruct": _long(_MEDIUM_4K, 131072),
}


def known_model(name: str) -> Architecture:
    """Give the shapes of a released model, letter case aside.

    Raises:
        UnsupportedModelError: it is a Phi-3-small, which can't be built, or no model that is known; names the nearest.
    """
    wanted = name.lower()
    if wanted in KNOWN_MODELS:
        return KNOWN_MODELS[wanted]
    if wanted.startswith("phi-3-small"):
        raise UnsupportedModelError(
            f"{name!r} is not supported: nothing here builds Phi-3-small's block-sparse layers",
            fix=f"take one of {', '.join(KNOWN_MODELS)}",
        )
    fix = did_you_mean(wanted, KNOWN_MODELS) + "; or give the path of a checkpoint folder"
    raise UnsupportedModelError(f"no known model {name!r}", fix=fix)
