"""Reads the `config.json` of each family into an `Architecture`.

`config_keys.py` lists all keys with their defaults, `config_rope.py` reads the rope, which has several forms, and
`other_models.py` names models of other kinds. Sources: see `config_keys.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from targets.architecture import Architecture, BlockSparse
from targets.config_keys import LLAMA_KEYS, PHI3_KEYS, SMALL_KEYS, FamilyKeys, check_keys
from targets.config_reader import DOWNLOAD_AGAIN, LARGEST_SIZE, USE_SUPPORTED, ConfigReader
from targets.config_rope import LLAMA_ROPE, PHI3_ROPE, SMALL_ROPE, read_rope
from targets.errors import CheckpointError, UnsupportedModelError
from targets.other_models import refuse_architecture

# Unused token ids of Phi-3-small: those between its added tokens, and the padding of the vocabulary.
SMALL_UNUSED_IDS = (100256, 100258, 100259, 100260, 100264, 100265, *range(100267, 100352))


def read_architecture(config: Mapping[str, Any]) -> Architecture:
    """Read `config.json`. Every key is used or known to be harmless.

    Raises:
        CheckpointError: a value is invalid, or two keys contradict each other.
        UnsupportedModelError: the architecture, the activation or the rope is not supported, or a key is not known.
    """
    return _READERS[_architecture_name(config)](config)


def read_setting(config: Mapping[str, Any], key: str) -> Any:
    """Return a value of `config.json`; where the key is absent, the default of the model's own configuration class."""
    return config.get(key, _KEYS[_architecture_name(config)].used.get(key))


def _read_phi3(config: Mapping[str, Any]) -> Architecture:
    """Read Phi-3: RMSNorm, SwiGLU, no biases, perhaps a sliding window and longrope."""
    check_keys(config, PHI3_KEYS)
    reader = ConfigReader(config)
    reader.positive("original_max_position_embeddings", default=4096)  # without longrope, it must still be valid
    window = None if config.get("sliding_window") is None else reader.positive("sliding_window")
    hidden, heads, _ = _head_counts(reader, PHI3_KEYS)
    # Its class does not know the key: transformers fails on null.
    head_dim = reader.positive("head_dim", default=hidden // heads)
    _check_layer_types(config, reader, "full_attention" if window is None else "sliding_attention")
    return _read_plain(config, PHI3_KEYS, head_dim, window)


def _read_llama(config: Mapping[str, Any]) -> Architecture:
    """Read Llama: as Phi-3, with neither a window nor longrope."""
    check_keys(config, LLAMA_KEYS)
    reader = ConfigReader(config)
    context = reader.positive("max_position_embeddings", default=LLAMA_KEYS.used["max_position_embeddings"])
    window = config.get("sliding_window")
    if window is not None and reader.positive("sliding_window") < context:
        raise UnsupportedModelError(
            f"config.json: sliding_window {window} is not supported for Llama: transformers' attention ignores it, "
            "its cache does not, so that the answer depends on how it is computed",
            fix='set "sliding_window": null, or use a checkpoint of Phi-3, which has a window',
        )
    hidden, heads, _ = _head_counts(reader, LLAMA_KEYS)
    head_dim = reader.positive_or_null("head_dim", default=hidden // heads)
    _check_layer_types(config, reader, "full_attention")
    return _read_plain(config, LLAMA_KEYS, head_dim, None)


def _read_plain(config: Mapping[str, Any], keys: FamilyKeys, head_dim: int, window: int | None) -> Architecture:
    """Read the shape that Phi-3 and Llama share."""
    reader, defaults = ConfigReader(config), keys.used
    hidden, heads, kv_heads = _head_counts(reader, keys)
    _refuse_other_activation(config, "silu")
    context = reader.positive("max_position_embeddings", default=defaults["max_position_embeddings"])
    is_llama = keys is LLAMA_KEYS
    rope = read_rope(config, LLAMA_ROPE if is_llama else PHI3_ROPE, context, head_dim)
    return Architecture(
        name="LlamaForCausalLM" if is_llama else "Phi3ForCausalLM",
        family="llama" if is_llama else "phi3",
        layer_count=reader.positive("num_hidden_layers", default=defaults["num_hidden_layers"]),
        hidden_size=hidden,
        intermediate_size=reader.positive("intermediate_size", default=defaults["intermediate_size"]),
        head_count=heads,
        kv_head_count=kv_heads,
        head_dim=head_dim,
        vocabulary_size=reader.positive("vocab_size", default=defaults["vocab_size"]),
        context_length=context,
        rope_theta=rope.theta,
        norm_epsilon=reader.number("rms_norm_eps", default=defaults["rms_norm_eps"]),
        tied_embeddings=reader.flag("tie_word_embeddings", default=defaults["tie_word_embeddings"]),
        sliding_window=window,
        longrope=rope.longrope,
        partial_rotary_dim=None if rope.rotary_dim == head_dim else rope.rotary_dim,
    )


def _read_phi3_small(config: Mapping[str, Any]) -> Architecture:
    """Read Phi-3-small: LayerNorm and biases, GEGLU, muP, block-sparse layers."""
    check_keys(config, SMALL_KEYS)
    reader, defaults = ConfigReader(config), SMALL_KEYS.used
    hidden, heads, kv_heads = _head_counts(reader, SMALL_KEYS)
    head_dim = hidden // heads
    _refuse_other_activation(config, "gegelu")
    if reader.flag("blocksparse_homo_head_pattern", default=False):
        raise UnsupportedModelError(
            "config.json: blocksparse_homo_head_pattern is not supported; released Phi-3-small models do not set it",
            fix=USE_SUPPORTED,
        )
    if reader.number("rope_position_scale", default=1.0) != 1.0:
        raise UnsupportedModelError(
            f"config.json: rope_position_scale {config['rope_position_scale']!r} is not supported; only 1 is",
            fix=USE_SUPPORTED,
        )
    multiplier = reader.number("mup_attn_multiplier", default=defaults["mup_attn_multiplier"])
    context = reader.positive("max_position_embeddings", default=defaults["max_position_embeddings"])
    rope = read_rope(config, SMALL_ROPE, context, head_dim)
    vocabulary = reader.positive("vocab_size", default=defaults["vocab_size"])
    return Architecture(
        name="Phi3SmallForCausalLM",
        family="phi3small",
        layer_count=reader.positive("num_hidden_layers", default=defaults["num_hidden_layers"]),
        hidden_size=hidden,
        intermediate_size=_small_intermediate_size(config, hidden),
        head_count=heads,
        kv_head_count=kv_heads,
        head_dim=head_dim,
        vocabulary_size=vocabulary,
        context_length=context,
        rope_theta=rope.theta,
        norm_epsilon=reader.number("layer_norm_epsilon", default=defaults["layer_norm_epsilon"]),
        tied_embeddings=reader.flag("tie_word_embeddings", default=defaults["tie_word_embeddings"]),
        longrope=rope.longrope,
        biased=True,
        gegelu_limit=reader.number("gegelu_limit", default=defaults["gegelu_limit"]),
        attention_scale=multiplier / head_dim if reader.flag("mup_use_scaling", default=True) else None,
        embedding_multiplier=_multiplier(reader, config, "mup_embedding_multiplier"),
        logit_divisor=_multiplier(reader, config, "mup_width_multiplier"),
        block_sparse=_block_sparse(config, reader),
        hidden_token_ids=_hidden_token_ids(config, vocabulary),
    )


def _block_sparse(config: Mapping[str, Any], reader: ConfigReader) -> BlockSparse:
    """Read the pattern of sparse layers. `dense_attention_every_n_layers` null: no layer is dense."""
    key = "dense_attention_every_n_layers"
    defaults = SMALL_KEYS.used
    return BlockSparse(
        block_size=reader.positive("blocksparse_block_size", default=defaults["blocksparse_block_size"]),
        local_blocks=reader.positive("blocksparse_num_local_blocks", default=defaults["blocksparse_num_local_blocks"]),
        vertical_stride=reader.positive("blocksparse_vert_stride", default=defaults["blocksparse_vert_stride"]),
        dense_every=0 if config.get(key, defaults[key]) is None else reader.count(key, default=defaults[key]),
    )


def _multiplier(reader: ConfigReader, config: Mapping[str, Any], key: str) -> float:
    """Read a factor of muP. The model's code does not multiply if it is null."""
    default: float = SMALL_KEYS.used[key]
    return 1.0 if config.get(key, default) is None else reader.number(key, default=default)


def _small_intermediate_size(config: Mapping[str, Any], hidden: int) -> int:
    """Read `ff_intermediate_size`; if it is null, compute it from `ff_dim_multiplier` as `Phi3SmallConfig` does.

    Raises:
        CheckpointError: both keys have values, or both are null: the class refuses that too.
    """
    reader = ConfigReader(config)
    multiplier = config.get("ff_dim_multiplier")
    size = config.get("ff_intermediate_size", SMALL_KEYS.used["ff_intermediate_size"])
    if (multiplier is None) == (size is None):
        raise CheckpointError(
            f"config.json: one of ff_intermediate_size and ff_dim_multiplier must be null, not {size!r} and "
            f"{multiplier!r}",
            fix='set "ff_dim_multiplier": null, as in the released models',
        )
    if size is not None:
        return reader.positive("ff_intermediate_size", default=size)
    computed = reader.positive("ff_dim_multiplier") * (hidden // 3) * 2
    if reader.flag("gegelu_pad_to_256", default=True):
        computed = -(-computed // 256) * 256
    if not 1 <= computed <= LARGEST_SIZE:
        raise CheckpointError(
            f"config.json: ff_dim_multiplier {multiplier} makes an intermediate size of {computed}", fix=DOWNLOAD_AGAIN
        )
    return computed


_READERS: dict[str, Callable[[Mapping[str, Any]], Architecture]] = {
    "Phi3ForCausalLM": _read_phi3,
    "Phi3SmallForCausalLM": _read_phi3_small,
    "LlamaForCausalLM": _read_llama,
}
_KEYS = {"Phi3ForCausalLM": PHI3_KEYS, "Phi3SmallForCausalLM": SMALL_KEYS, "LlamaForCausalLM": LLAMA_KEYS}
SUPPORTED = tuple(_READERS)


def _head_counts(reader: ConfigReader, keys: FamilyKeys) -> tuple[int, int, int]:
    """Return the hidden size, the number of query heads and the number of key heads.

    Raises:
        CheckpointError: the hidden size is no multiple of the query heads, or the query heads none of the key heads.
    """
    hidden = reader.positive("hidden_size", default=keys.used["hidden_size"])
    heads = reader.positive("num_attention_heads", default=keys.used["num_attention_heads"])
    if (fixed := keys.used["num_key_value_heads"]) is None:  # null and absent: as many as there are query heads
        kv_heads = reader.positive_or_null("num_key_value_heads", default=heads)
    else:
        kv_heads = reader.positive("num_key_value_heads", default=fixed)
    if hidden % heads or heads % kv_heads:
        raise CheckpointError(
            f"config.json: hidden_size {hidden}, num_attention_heads {heads} and num_key_value_heads {kv_heads} "
            "don't divide one another",
            fix=DOWNLOAD_AGAIN,
        )
    return hidden, heads, kv_heads


def _check_layer_types(config: Mapping[str, Any], reader: ConfigReader, kind: str) -> None:
    """Check that `layer_types`, if there is one, says of each layer what `sliding_window` says of all."""
    types = config.get("layer_types")
    if types is None:
        return
    layers = reader.positive("num_hidden_layers", default=32)
    if not isinstance(types, list) or len(types) != layers or any(each != kind for each in types):
        raise UnsupportedModelError(
            f"config.json: layer_types must have {layers} times {kind!r}, since sliding_window is "
            f"{config.get('sliding_window')!r}: layers of different types are not supported",
            fix="remove layer_types if all layers are alike; otherwise phipack does not build this kind of model",
        )


def _refuse_other_activation(config: Mapping[str, Any], wanted: str) -> None:
    if config.get("hidden_act", wanted) != wanted:
        raise UnsupportedModelError(
            f"config.json: hidden_act {config['hidden_act']!r} is not supported; this family has {wanted!r}",
            fix=USE_SUPPORTED,
        )


def _hidden_token_ids(config: Mapping[str, Any], vocabulary: int) -> tuple[int, ...]:
    """Return `dummy_token_indices`, or those of the released models if the config has no such key."""
    ids = config.get("dummy_token_indices")
    if "dummy_token_indices" not in config:
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
        types = {keys.model_type: name for name, keys in _KEYS.items()}
        name = types.get(str(config.get("model_type")), "Phi3ForCausalLM")
        raise CheckpointError(
            "config.json: 'architectures' is missing or empty, so the kind of model is unknown",
            fix=f'add "architectures": ["{name}"] if that is what the weights are',
        )
    if len(set(names)) > 1:
        raise CheckpointError(
            f"config.json: architectures names several kinds of model: {', '.join(names)}",
            fix="keep the one whose weights are in the folder",
        )
    if names[0] not in SUPPORTED:
        refuse_architecture(names[0], SUPPORTED)
    return str(names[0])
