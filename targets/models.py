"""The shapes of released Phi-3 and Phi-4 models, from Microsoft's configs: `fit` needs no checkpoint of these."""

from __future__ import annotations

from dataclasses import replace

from targets.architecture import Architecture, BlockSparse, LongRope
from targets.config_json import SMALL_UNUSED_IDS
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
_PHI_4 = replace(_MEDIUM_4K, vocabulary_size=100352, context_length=16384, rope_theta=250000.0, sliding_window=None)
_SMALL_8K = Architecture(
    name="Phi3SmallForCausalLM",
    family="phi3small",
    layer_count=32,
    hidden_size=4096,
    intermediate_size=14336,
    head_count=32,
    kv_head_count=8,
    head_dim=128,
    vocabulary_size=100352,
    context_length=8192,
    rope_theta=1e6,
    norm_epsilon=1e-5,
    tied_embeddings=True,
    biased=True,
    gegelu_limit=20.0,
    attention_scale=1 / 128,
    embedding_multiplier=10.0,
    logit_divisor=8.0,
    block_sparse=BlockSparse(block_size=64, local_blocks=16, vertical_stride=8, dense_every=2),
    hidden_token_ids=SMALL_UNUSED_IDS,
)


def _long(short: Architecture, original_context: int, factor: float, window: int | None) -> Architecture:
    """Return the 128k variant. Its factor lists are empty: they differ by release and are not needed for sizes."""
    rope = LongRope((), (), original_context, short_attention_factor=factor, long_attention_factor=factor)
    return replace(short, context_length=131072, sliding_window=window, longrope=rope)


_MINI_128K = _long(_MINI_4K, 4096, 1.190238, 262144)
_PHI_4_MINI = replace(
    _MINI_128K,
    head_count=24,
    kv_head_count=8,
    head_dim=128,
    partial_rotary_dim=96,
    vocabulary_size=200064,
    tied_embeddings=True,
)
KNOWN_MODELS = {
    "phi-3-mini-4k-instruct": _MINI_4K,
    "phi-3-mini-128k-instruct": _MINI_128K,
    "phi-3-medium-4k-instruct": _MEDIUM_4K,
    "phi-3-medium-128k-instruct": _long(_MEDIUM_4K, 4096, 1.190238, 131072),
    "phi-3-small-8k-instruct": _SMALL_8K,
    "phi-3-small-128k-instruct": _long(_SMALL_8K, 8192, 1.143544, None),
    "phi-3.5-mini-instruct": _MINI_128K,
    "phi-4-mini-instruct": _PHI_4_MINI,
    "phi-4": _PHI_4,
}


def known_model(name: str) -> Architecture:
    """Return the shape of a released model. Letter case does not matter.

    Raises:
        UnsupportedModelError: the model is unknown. The fix names the most similar one.
    """
    wanted = name.lower()
    if wanted in KNOWN_MODELS:
        return KNOWN_MODELS[wanted]
    fix = did_you_mean(wanted, KNOWN_MODELS) + "; or use the path of a checkpoint folder"
    raise UnsupportedModelError(f"unknown model {name!r}", fix=fix)
