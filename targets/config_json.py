"""Reads the `config.json` of each family into an `Architecture`. The rope has several forms: see `config_rope.py`.

Sources: transformers' `Phi3Config` and `LlamaConfig`, and the configuration file in Phi-3-small's repositories.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from targets.architecture import Architecture, BlockSparse
from targets.config_reader import DOWNLOAD_AGAIN, USE_SUPPORTED, ConfigReader
from targets.config_rope import LLAMA_ROPE, PHI3_ROPE, SMALL_ROPE, read_rope
from targets.errors import CheckpointError, UnsupportedModelError, did_you_mean

# Unused token ids of Phi-3-small: those between its added tokens, and the padding of the vocabulary.
SMALL_UNUSED_IDS = (100256, 100258, 100259, 100260, 100264, 100265, *range(100267, 100352))


def read_architecture(config: Mapping[str, Any]) -> Architecture:
    """Read `config.json`.

    Raises:
        CheckpointError: a key is missing or has an invalid value.
        UnsupportedModelError: the architecture, the activation or the rope is not supported.
    """
    name = _architecture_name(config)
    if config.get("quantization_config"):
        raise UnsupportedModelError(
            "config.json: quantization_config: the weights are quantized already",
            fix="use the model's original checkpoint in float16, bfloat16 or float32",
        )
    return _READERS[name](config)


def _read_phi3_or_llama(config: Mapping[str, Any]) -> Architecture:
    """Read the shape that Phi-3 and Llama share: RMSNorm, SwiGLU, no biases."""
    is_llama = "LlamaForCausalLM" in config["architectures"]
    reader = ConfigReader(config)
    hidden, heads, kv_heads = _head_counts(reader)
    _refuse_other_activation(config, "silu")
    if config.get("attention_bias") or config.get("mlp_bias"):
        raise UnsupportedModelError(
            "config.json: attention_bias and mlp_bias are not supported: Phi-3 and Llama checkpoints have no biases",
            fix=USE_SUPPORTED,
        )
    context = reader.positive("max_position_embeddings")
    window = None if is_llama else config.get("sliding_window")
    head_dim = reader.positive("head_dim", default=hidden // heads)
    rope = read_rope(config, LLAMA_ROPE if is_llama else PHI3_ROPE, context, head_dim)
    return Architecture(
        name="LlamaForCausalLM" if is_llama else "Phi3ForCausalLM",
        family="llama" if is_llama else "phi3",
        layer_count=reader.positive("num_hidden_layers"),
        hidden_size=hidden,
        intermediate_size=reader.positive("intermediate_size"),
        head_count=heads,
        kv_head_count=kv_heads,
        head_dim=head_dim,
        vocabulary_size=reader.positive("vocab_size"),
        context_length=context,
        rope_theta=rope.theta,
        norm_epsilon=reader.number("rms_norm_eps", default=1e-6 if is_llama else 1e-5),
        tied_embeddings=bool(config.get("tie_word_embeddings", False)),
        sliding_window=reader.positive("sliding_window") if window is not None else None,
        longrope=rope.longrope,
        partial_rotary_dim=None if rope.rotary_dim == head_dim else rope.rotary_dim,
    )


def _read_phi3_small(config: Mapping[str, Any]) -> Architecture:
    """Read Phi-3-small: LayerNorm and biases, GEGLU, muP, block-sparse layers."""
    reader = ConfigReader(config)
    hidden, heads, kv_heads = _head_counts(reader)
    head_dim = hidden // heads
    _refuse_other_activation(config, "gegelu")
    if config.get("blocksparse_homo_head_pattern"):
        raise UnsupportedModelError(
            "config.json: blocksparse_homo_head_pattern is not supported; released Phi-3-small models do not set it",
            fix=USE_SUPPORTED,
        )
    if reader.number("rope_position_scale", default=1.0) != 1.0:
        raise UnsupportedModelError(
            f"config.json: rope_position_scale {config['rope_position_scale']!r} is not supported; only 1 is",
            fix=USE_SUPPORTED,
        )
    multiplier = reader.number("mup_attn_multiplier", default=1.0)
    context = reader.positive("max_position_embeddings", default=8192)
    rope = read_rope(config, SMALL_ROPE, context, head_dim)
    vocabulary = reader.positive("vocab_size", default=100352)
    scales = bool(config.get("mup_use_scaling", True))
    return Architecture(
        name="Phi3SmallForCausalLM",
        family="phi3small",
        layer_count=reader.positive("num_hidden_layers"),
        hidden_size=hidden,
        intermediate_size=reader.positive("ff_intermediate_size"),
        head_count=heads,
        kv_head_count=kv_heads,
        head_dim=head_dim,
        vocabulary_size=vocabulary,
        context_length=context,
        rope_theta=rope.theta,
        norm_epsilon=reader.number("layer_norm_epsilon", default=1e-5),
        tied_embeddings=bool(config.get("tie_word_embeddings", True)),
        longrope=rope.longrope,
        biased=True,
        gegelu_limit=reader.number("gegelu_limit", default=20.0),
        attention_scale=multiplier / head_dim if scales else None,
        embedding_multiplier=reader.number("mup_embedding_multiplier", default=10.0),
        logit_divisor=reader.number("mup_width_multiplier", default=8.0),
        block_sparse=BlockSparse(
            block_size=reader.positive("blocksparse_block_size", default=64),
            local_blocks=reader.positive("blocksparse_num_local_blocks", default=16),
            vertical_stride=reader.positive("blocksparse_vert_stride", default=8),
            dense_every=reader.count("dense_attention_every_n_layers", default=0),
        ),
        hidden_token_ids=_hidden_token_ids(config, vocabulary),
    )


_READERS: dict[str, Callable[[Mapping[str, Any]], Architecture]] = {
    "Phi3ForCausalLM": _read_phi3_or_llama,
    "Phi3SmallForCausalLM": _read_phi3_small,
    "LlamaForCausalLM": _read_phi3_or_llama,
}
SUPPORTED = tuple(_READERS)


def _head_counts(reader: ConfigReader) -> tuple[int, int, int]:
    """Return the hidden size, the number of query heads and the number of key heads.

    Raises:
        CheckpointError: the hidden size is no multiple of the query heads, or the query heads none of the key heads.
    """
    hidden = reader.positive("hidden_size")
    heads = reader.positive("num_attention_heads")
    kv_heads = reader.positive("num_key_value_heads", default=heads)
    if hidden % heads or heads % kv_heads:
        raise CheckpointError(
            f"config.json: hidden_size {hidden}, num_attention_heads {heads} and num_key_value_heads {kv_heads} "
            "don't divide one another",
            fix=DOWNLOAD_AGAIN,
        )
    return hidden, heads, kv_heads


def _refuse_other_activation(config: Mapping[str, Any], wanted: str) -> None:
    if config.get("hidden_act", wanted) != wanted:
        raise UnsupportedModelError(
            f"config.json: hidden_act {config['hidden_act']!r} is not supported; this family has {wanted!r}",
            fix=USE_SUPPORTED,
        )


def _hidden_token_ids(config: Mapping[str, Any], vocabulary: int) -> tuple[int, ...]:
    """Return `dummy_token_indices`, or those of the released models if the config has no such key."""
    ids = config.get("dummy_token_indices")
    if ids is None:
        return tuple(token for token in SMALL_UNUSED_IDS if token < vocabulary)
    if not isinstance(ids, list) or not all(type(token) is int and 0 <= token < vocabulary for token in ids):
        raise CheckpointError(
            f"config.json: dummy_token_indices must list ids of the vocabulary of {vocabulary}",
            fix=f"list whole numbers from 0 to {vocabulary - 1}, or remove the key to use those of the released models",
        )
    return tuple(sorted(set(ids)))


def _architecture_name(config: Mapping[str, Any]) -> str:
    names = config.get("architectures")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise CheckpointError(
            "config.json: 'architectures' is missing or empty, so the kind of model is unknown",
            fix='add "architectures": ["Phi3ForCausalLM"] if the model is a Phi-3',
        )
    for name in names:
        if name in SUPPORTED:
            return str(name)
    raise UnsupportedModelError(
        f"config.json: architecture {names[0]!r} is not supported",
        fix=did_you_mean(names[0], SUPPORTED) + "; phipack export writes a plain ONNX folder of any model of optimum",
    )
