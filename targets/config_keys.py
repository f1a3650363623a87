"""Every key of `config.json` that phipack knows, by family: used (with its default), or harmless (with the reason).

A key that is in neither table is refused, since it may change what the model computes. So is a harmless key whose value
is not harmless.

Defaults are those of the model's own configuration class, which fills in a key that is absent. Sources: `Phi3Config`
and `LlamaConfig` of transformers 5.24; `Phi3SmallConfig`, in `configuration_phi3_small.py` of Phi-3-small's
repositories. Reasons are from the modeling code of the same classes, and from transformers' `PretrainedConfig`, whose
keys all families may have.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from targets.errors import CheckpointError, UnsupportedModelError


@dataclass(frozen=True)
class Harmless:
    """Why a key does not change what the model computes. `only`: at these values; None for any value but a table.

    `table`: the value may be a table, of which nothing is read.
    """

    reason: str
    only: tuple[Any, ...] | None = None
    table: bool = False

    def allows(self, value: object) -> bool:
        """Return True if the value is harmless. 1, 1.0 and true are different values."""
        if self.only is None:
            return self.table or not isinstance(value, Mapping)
        return any(type(value) is type(allowed) and value == allowed for allowed in self.only)


@dataclass(frozen=True)
class FamilyKeys:
    """The keys of a family. `used`: what the reader uses, with the class's default; None if it is computed or null."""

    title: str
    model_type: str
    used: Mapping[str, Any]
    harmless: Mapping[str, Harmless]


_DROPOUT = Harmless("dropout happens in training only")
_STEPS = Harmless("a method of training, without effect on a finished model")
_NAME = Harmless("where the model came from")
_KERNEL = Harmless("which kernel computes attention; all compute the same")
_OUTPUT = Harmless("what a call in Python returns, not what the model computes")
_SETTING = Harmless("transformers 5 reads settings of generation from generation_config.json only", table=True)
_CLASSES = Harmless("labels of a classifier's head, which a language model does not have", table=True)
_ENCODER = "Phi-3 and Llama are decoders without an encoder"

# Settings of generation that transformers up to 4 wrote into config.json.
_GENERATION_SETTINGS = (
    "max_length",
    "max_new_tokens",
    "min_length",
    "min_new_tokens",
    "early_stopping",
    "do_sample",
    "num_beams",
    "num_beam_groups",
    "diversity_penalty",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
    "repetition_penalty",
    "length_penalty",
    "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size",
    "bad_words_ids",
    "num_return_sequences",
    "output_scores",
    "return_dict_in_generate",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "remove_invalid_values",
    "exponential_decay_length_penalty",
    "suppress_tokens",
    "begin_suppress_tokens",
)
_GENERAL: dict[str, Harmless] = {
    "_name_or_path": _NAME,
    "_commit_hash": _NAME,
    "transformers_version": Harmless("the release that wrote the file; all forms that releases write are read alike"),
    "auto_map": Harmless("code in the repository, which is never run: the family's own formulas are built", table=True),
    "torch_dtype": Harmless(
        "weights are read in the dtype in which they are stored", (None, "float32", "float16", "bfloat16")
    ),
    "dtype": Harmless(
        "weights are read in the dtype in which they are stored", (None, "float32", "float16", "bfloat16")
    ),
    "tokenizer_class": Harmless("the tokenizer is read from its own files"),
    "use_cache": Harmless("keys and values are cached or computed again, with the same result"),
    "initializer_range": Harmless("initial values of training"),
    "gradient_checkpointing": _STEPS,
    "neftune_noise_alpha": Harmless("noise that is added in training only"),
    "attention_dropout": _DROPOUT,
    "resid_pdrop": _DROPOUT,
    "embd_pdrop": _DROPOUT,
    "_attn_implementation": _KERNEL,
    "attn_implementation": _KERNEL,
    "_attn_implementation_autoset": _KERNEL,
    "_flash_attn_2_enabled": _KERNEL,
    "output_attentions": _OUTPUT,
    "output_hidden_states": _OUTPUT,
    "return_dict": _OUTPUT,
    "use_return_dict": _OUTPUT,
    "torchscript": _OUTPUT,
    "use_bfloat16": Harmless("of TensorFlow's models only"),
    "tf_legacy_loss": Harmless("of TensorFlow's models only"),
    "is_decoder": Harmless("Phi-3 and Llama are decoders whatever it says"),
    "is_causal": Harmless("every token sees earlier ones only", (True,)),
    "is_encoder_decoder": Harmless(_ENCODER, (None, False)),
    "add_cross_attention": Harmless(_ENCODER, (None, False)),
    "tie_encoder_decoder": Harmless(_ENCODER, (None, False)),
    "cross_attention_hidden_size": Harmless(_ENCODER, (None,)),
    "decoder_start_token_id": Harmless(_ENCODER, (None,)),
    "chunk_size_feed_forward": Harmless("0 means that a layer computes all tokens at once", (0,)),
    "pruned_heads": Harmless("empty, no attention head was removed", ({}, None)),
    "per_layer_config": Harmless("null, all layers have the same shape", (None,)),
    "attention_chunk_size": Harmless("null, attention is not cut into chunks", (None,)),
    "prefix": Harmless("null or empty, nothing is put before a prompt", (None, "")),
    "sep_token_id": Harmless("null, no token separates two texts", (None,)),
    "task_specific_params": Harmless("null or empty, no settings of a pipeline", (None, {})),
    "quantization_config": Harmless("null or empty, the weights are not quantized", (None, {})),
    "transformers_weights": Harmless("null, the weights are in the files with the usual names", (None,)),
    "id2label": _CLASSES,
    "label2id": _CLASSES,
    "num_labels": _CLASSES,
    "problem_type": _CLASSES,
    "finetuning_task": _CLASSES,
    "unsloth_version": _NAME,
    "unsloth_fixed": Harmless("says that Unsloth has corrected the tokenizer's files"),
    "transformers.js_config": Harmless("settings of another runtime, transformers.js", table=True),
    **dict.fromkeys(_GENERATION_SETTINGS, _SETTING),
}
_NO_BIAS = Harmless("false, as in all released models: no matrix has a bias", (False,))

PHI3_KEYS = FamilyKeys(
    title="Phi-3",
    model_type="phi3",
    used={
        "architectures": None,
        "model_type": None,
        "vocab_size": 32064,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": None,
        "head_dim": None,
        "hidden_act": "silu",
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "rope_parameters": None,
        "partial_rotary_factor": 1.0,
        "sliding_window": None,
        "layer_types": None,
        "bos_token_id": 1,
        "eos_token_id": 32000,
        "pad_token_id": 32000,
    },
    harmless={
        **_GENERAL,
        "attention_bias": _NO_BIAS,
        "mlp_bias": _NO_BIAS,
        "lm_head_bias": _NO_BIAS,
        "full_attn_mod": Harmless("1 means that all layers attend alike", (1,)),
        "interpolate_factor": Harmless("1 means that positions are not interpolated", (1,)),
    },
)
LLAMA_KEYS = FamilyKeys(
    title="Llama",
    model_type="llama",
    used={
        "architectures": None,
        "model_type": None,
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": None,
        "head_dim": None,
        "hidden_act": "silu",
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "rope_parameters": None,
        "partial_rotary_factor": 1.0,
        "sliding_window": None,
        "layer_types": None,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": None,
    },
    harmless={
        **_GENERAL,
        "attention_bias": _NO_BIAS,
        "mlp_bias": _NO_BIAS,
        "pretraining_tp": Harmless("how matrices were split in pretraining: the same products, summed in parts"),
        "original_max_position_embeddings": Harmless("Llama without a scaled rope does not read it"),
        "max_sequence_length": Harmless("an older name; transformers reads max_position_embeddings"),
        "is_llama_config": Harmless("nanotron's own mark"),
        "rope_interleaved": Harmless("false, rows rotate in halves, as transformers' Llama does", (False,)),
        "phipack_sliding_window": Harmless("Phi-3's window, kept by `phipack convert` for the way back"),
    },
)
SMALL_KEYS = FamilyKeys(
    title="Phi-3-small",
    model_type="phi3small",
    used={
        "architectures": None,
        "model_type": None,
        "vocab_size": 100352,
        "hidden_size": 4096,
        "ff_intermediate_size": 14336,
        "ff_dim_multiplier": None,
        "gegelu_pad_to_256": True,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "hidden_act": "gegelu",
        "gegelu_limit": 20.0,
        "max_position_embeddings": 8192,
        "rope_embedding_base": 1e6,
        "rope_position_scale": 1.0,
        "rope_scaling": None,
        "rope_parameters": None,
        "partial_rotary_factor": 1.0,
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True,  # of transformers 4's PretrainedConfig, for which the class was written
        "mup_use_scaling": True,
        "mup_width_multiplier": 8.0,
        "mup_embedding_multiplier": 10.0,
        "mup_attn_multiplier": 1.0,
        "blocksparse_homo_head_pattern": False,
        "blocksparse_block_size": 64,
        "blocksparse_num_local_blocks": 16,
        "blocksparse_vert_stride": 8,
        "dense_attention_every_n_layers": 2,
        "dummy_token_indices": None,
        "bos_token_id": 100257,
        "eos_token_id": 100257,
        "pad_token_id": None,
    },
    harmless={
        **_GENERAL,
        "attention_bias": Harmless("not read: the model's code gives every matrix a bias", (False,)),
        "attention_dropout_prob": _DROPOUT,
        "embedding_dropout_prob": _DROPOUT,
        "ffn_dropout_prob": _DROPOUT,
        "blocksparse_triton_kernel_block_size": _KERNEL,
        "pad_sequence_to_multiple_of_64": Harmless("done with gradients only, and the padding is cut off again"),
        "reorder_and_upcast_attn": Harmless("not read by the model's code", (False,)),
    },
)

# Keys that say what kind of model it is, with what that means.
_REFUSED = {
    "quantization_config": "the weights are quantized already",
    "quantization": "the weights are quantized already, by MLX",
    "compression_config": "the weights are compressed already",
    "configuration_files": "the config is in another file, chosen by the release of transformers",
}
_FIXES = {
    "configuration_files": "rename the file that it lists for the installed transformers to config.json",
    "transformers_weights": "rename that file to model.safetensors, and remove the key",
}
_SHOWN = 60  # characters of a value in an error
_ORIGINAL = "use the model's original checkpoint in float16, bfloat16 or float32"
_UNKNOWN_FIX = (
    "remove it if the model computes the same without it (compare the two in transformers); otherwise the model is of "
    "a kind that phipack does not build"
)


def check_keys(config: Mapping[str, Any], keys: FamilyKeys) -> None:
    """Check that every key is used, or harmless at its value.

    Raises:
        CheckpointError: `model_type` names another family than `architectures`.
        UnsupportedModelError: naming the first key, in the file's order, that is neither.
    """
    found = config.get("model_type", keys.model_type)
    if found != keys.model_type:
        raise CheckpointError(
            f"config.json: model_type is {found!r}, but architectures is {config['architectures']!r}",
            fix=f'set "model_type": "{keys.model_type}" if it is a {keys.title}: transformers goes by model_type',
        )
    for key, value in config.items():
        if key not in keys.used:
            _check_harmless(key, value, keys)


def _check_harmless(key: str, value: object, keys: FamilyKeys) -> None:
    harmless = keys.harmless.get(key)
    if harmless is not None and harmless.allows(value):
        return
    if key in _REFUSED:
        raise UnsupportedModelError(f"config.json: {key}: {_REFUSED[key]}", fix=_FIXES.get(key, _ORIGINAL))
    if harmless is None:
        near = difflib.get_close_matches(key, [*keys.used, *keys.harmless], n=1, cutoff=0.8)
        raise UnsupportedModelError(
            f"config.json: {key} is not a known key of {keys.title}: it may change what the model computes",
            fix=f"did you mean {near[0]!r}? Otherwise {_UNKNOWN_FIX}" if near else _UNKNOWN_FIX,
        )
    values = "one that is not a table" if harmless.only is None else " or ".join(_json(one) for one in harmless.only)
    raise UnsupportedModelError(
        f"config.json: {key} {_json(value)} is not supported; {values} is ({harmless.reason})",
        fix=_FIXES.get(key, "use the checkpoint of a released Phi-3 model, or of a model with the same architecture"),
    )


def _json(value: object) -> str:
    """Return a value as it is written in the file, shortened."""
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
