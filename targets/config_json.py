"""`config.json` of each family, read into an `Architecture`.

Sources: transformers' `Phi3Config` and `LlamaConfig`, and the configuration that Phi-3-small's repositories carry.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from typing import Any

from targets.architecture import Architecture, BlockSparse, LongRope
from targets.errors import CheckpointError, UnsupportedModelError, did_you_mean

LARGEST_SIZE = (1 << 31) - 1  # of a dimension or a count
LONGROPE_TYPES = ("longrope", "su")  # releases of 2024-04 say "su"
# Phi-3-small's ids without a meaning: unused ones between its added tokens, and the padding of the vocabulary.
SMALL_UNUSED_IDS = (100256, 100258, 100259, 100260, 100264, 100265, *range(100267, 100352))


def read_architecture(config: Mapping[str, Any]) -> Architecture:
    """Read `config.json`.

    Raises:
        CheckpointError: a key is missing or makes no sense.
        UnsupportedModelError: another architecture, activation or rope than the families'.
    """
    name = _architecture_name(config)
    if config.get("quantization_config"):
        raise UnsupportedModelError(
            "config.json: quantization_config: the weights are quantized already",
            fix="take the checkpoint in float16, bfloat16 or float32, as released",
        )
    return _READERS[name](config)


class ConfigReader:
    """Reads numbers out of a config, with errors that name the key. `where` stands before the key's name."""

    def __init__(self, config: Mapping[str, Any], where: str = "") -> None:
        self._config = config
        self._where = where

    def positive(self, key: str, *, default: int | None = None) -> int:
        """Give a whole number from 1; `default` where the key is absent or null."""
        return self._whole(key, default, 1)

    def count(self, key: str, *, default: int | None = None) -> int:
        """Give a whole number from 0; `default` where the key is absent or null."""
        return self._whole(key, default, 0)

    def number(self, key: str, *, default: float) -> float:
        """Give a number over 0, finite as a float; `default` where the key is absent."""
        value = self._config.get(key, default)
        if not is_positive(value):
            raise CheckpointError(f"config.json: {self._where}{key} must be a positive number, not {value!r}")
        return float(value)

    def _whole(self, key: str, default: int | None, least: int) -> int:
        value = self._config.get(key)
        if value is None:
            value = default
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= LARGEST_SIZE:
            kind = "a positive whole number" if least else "a whole number from 0"
            raise CheckpointError(f"config.json: {self._where}{key} must be {kind}, not {value!r}")
        return value


def is_positive(value: object) -> bool:
    """True for a number over 0 that is finite as a float (JSON may write an integer of 400 digits)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return 0 < value <= sys.float_info.max


def _read_phi3_or_llama(config: Mapping[str, Any]) -> Architecture:
    """Read the shape that Phi-3 and Llama share: RMSNorm, SwiGLU, no biases."""
    is_llama = "LlamaForCausalLM" in config["architectures"]
    reader = ConfigReader(config)
    hidden, heads, kv_heads = _head_counts(reader)
    if reader.number("partial_rotary_factor", default=1.0) != 1.0:
        raise UnsupportedModelError("config.json: partial_rotary_factor other than 1 is not Phi-3's rope")
    _refuse_other_activation(config, "silu")
    if config.get("attention_bias") or config.get("mlp_bias"):
        raise UnsupportedModelError("config.json: attention_bias and mlp_bias are not supported: Phi-3 has no biases")
    context = reader.positive("max_position_embeddings")
    window = None if is_llama else config.get("sliding_window")
    head_dim = reader.positive("head_dim", default=hidden // heads)
    if is_llama and config.get("rope_scaling") is not None:
        raise UnsupportedModelError(
            "config.json: rope_scaling of a Llama is not supported; Llama-2 and Llama-3 have none",
            fix="take a Llama-2 or Llama-3 checkpoint (not 3.1 or later)",
        )
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
        rope_theta=reader.number("rope_theta", default=10000.0),
        norm_epsilon=reader.number("rms_norm_eps", default=1e-6 if is_llama else 1e-5),
        tied_embeddings=bool(config.get("tie_word_embeddings", False)),
        sliding_window=reader.positive("sliding_window") if window is not None else None,
        longrope=None if is_llama else _longrope(config, context, head_dim, default_original=4096),
    )


def _read_phi3_small(config: Mapping[str, Any]) -> Architecture:
    """Read Phi-3-small: LayerNorm and biases, GEGLU, muP, block-sparse layers."""
    reader = ConfigReader(config)
    hidden, heads, kv_heads = _head_counts(reader)
    head_dim = hidden // heads
    _refuse_other_activation(config, "gegelu")
    if config.get("blocksparse_homo_head_pattern"):
        raise UnsupportedModelError("config.json: blocksparse_homo_head_pattern is not supported; Phi-3-small has none")
    if reader.number("rope_position_scale", default=1.0) != 1.0:
        raise UnsupportedModelError("config.json: rope_position_scale other than 1 is not Phi-3-small's rope")
    multiplier = reader.number("mup_attn_multiplier", default=1.0)
    context = reader.positive("max_position_embeddings", default=8192)
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
        rope_theta=reader.number("rope_embedding_base", default=1e6),
        norm_epsilon=reader.number("layer_norm_epsilon", default=1e-5),
        tied_embeddings=bool(config.get("tie_word_embeddings", True)),
        longrope=_longrope(config, context, head_dim, default_original=8192),
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
    """Give hidden size, query heads and key heads, which must divide one another."""
    hidden = reader.positive("hidden_size")
    heads = reader.positive("num_attention_heads")
    kv_heads = reader.positive("num_key_value_heads", default=heads)
    if hidden % heads or heads % kv_heads:
        raise CheckpointError(
            f"config.json: hidden_size {hidden}, num_attention_heads {heads} and num_key_value_heads {kv_heads} "
            "don't divide one another"
        )
    return hidden, heads, kv_heads


def _refuse_other_activation(config: Mapping[str, Any], wanted: str) -> None:
    if config.get("hidden_act", wanted) != wanted:
        raise UnsupportedModelError(f"config.json: hidden_act {config['hidden_act']!r}; this family has {wanted!r}")


def _hidden_token_ids(config: Mapping[str, Any], vocabulary: int) -> tuple[int, ...]:
    """Give `dummy_token_indices`; the released models' own where the config lists none."""
    ids = config.get("dummy_token_indices")
    if ids is None:
        return tuple(token for token in SMALL_UNUSED_IDS if token < vocabulary)
    if not isinstance(ids, list) or not all(type(token) is int and 0 <= token < vocabulary for token in ids):
        raise CheckpointError(f"config.json: dummy_token_indices must list ids of the vocabulary of {vocabulary}")
    return tuple(sorted(set(ids)))


def _architecture_name(config: Mapping[str, Any]) -> str:
    names = config.get("architectures")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise CheckpointError(
            "config.json: 'architectures' is missing or empty, so the kind of model is unknown",
            fix='add "architectures": ["Phi3ForCausalLM"] if that is what it is',
        )
    for name in names:
        if name in SUPPORTED:
            return str(name)
    raise UnsupportedModelError(
        f"config.json: architecture {names[0]!r} is not supported",
        fix=did_you_mean(names[0], SUPPORTED) + "; phipack export makes a plain ONNX folder of what optimum knows",
    )


def _longrope(config: Mapping[str, Any], context: int, head_dim: int, *, default_original: int) -> LongRope | None:
    scaling = config.get("rope_scaling")
    if scaling is None:
        return None
    if not isinstance(scaling, Mapping):
        raise CheckpointError(f"config.json: rope_scaling must be null or an object, not {scaling!r}")
    kind = scaling.get("type", scaling.get("rope_type"))
    if kind not in LONGROPE_TYPES:
        raise UnsupportedModelError(f"config.json: rope_scaling type {kind!r}; Phi-3 has 'longrope' (or 'su')")
    inner = ConfigReader(scaling, "rope_scaling.")
    # Phi-3 has it beside rope_scaling, Phi-3-small within.
    original = inner.positive(
        "original_max_position_embeddings",
        default=ConfigReader(config).positive("original_max_position_embeddings", default=default_original),
    )
    if original == 1:
        raise CheckpointError("config.json: original_max_position_embeddings must be over 1 with longrope, not 1")
    ratio = context / original
    factor = 1.0 if ratio <= 1 else math.sqrt(1 + math.log(ratio) / math.log(original))
    factor = inner.number("attention_factor", default=factor)
    return LongRope(
        short=_factors(scaling, "short_factor", head_dim),
        long=_factors(scaling, "long_factor", head_dim),
        original_context=original,
        short_attention_factor=inner.number("short_mscale", default=factor),
        long_attention_factor=inner.number("long_mscale", default=factor),
    )


def _factors(scaling: Mapping[str, Any], key: str, head_dim: int) -> tuple[float, ...]:
    values = scaling.get(key)
    if not isinstance(values, list) or len(values) != head_dim // 2:
        found = len(values) if isinstance(values, list) else values
        raise CheckpointError(f"config.json: rope_scaling.{key} must list {head_dim // 2} numbers, not {found!r}")
    if not all(is_positive(v) for v in values):
        raise CheckpointError(f"config.json: rope_scaling.{key} holds a value that is not a positive number")
    return tuple(float(v) for v in values)
