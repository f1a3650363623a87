"""`config.json` of released models, with all of their keys. Values are the released ones, but for those of longrope.

From the public repositories microsoft/Phi-3-*, microsoft/Phi-3.5-mini-instruct, microsoft/phi-4,
microsoft/Phi-4-mini-instruct, meta-llama/Llama-2-7b-hf, TinyLlama/TinyLlama-1.1B-Chat-v1.0 and
HuggingFaceTB/SmolLM2-135M-Instruct and -1.7B-Instruct.
"""

from __future__ import annotations

from typing import Any


def _longrope(factors: int, kind: str = "longrope", **more: Any) -> dict[str, Any]:
    short = [1.0 + number / 100 for number in range(factors)]
    return {"long_factor": [number * 2 for number in short], "short_factor": short, "type": kind} | more


_PHI3: dict[str, Any] = {
    "_name_or_path": "Phi-3-mini-4k-instruct",
    "architectures": ["Phi3ForCausalLM"],
    "attention_dropout": 0.0,
    "auto_map": {
        "AutoConfig": "configuration_phi3.Phi3Config",
        "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM",
    },
    "bos_token_id": 1,
    "embd_pdrop": 0.0,
    "eos_token_id": 32000,
    "hidden_act": "silu",
    "hidden_size": 3072,
    "initializer_range": 0.02,
    "intermediate_size": 8192,
    "max_position_embeddings": 4096,
    "model_type": "phi3",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "original_max_position_embeddings": 4096,
    "pad_token_id": 32000,
    "resid_pdrop": 0.0,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "sliding_window": 2047,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.40.2",
    "use_cache": True,
    "attention_bias": False,
    "vocab_size": 32064,
}
_LONG = {"max_position_embeddings": 131072, "sliding_window": 262144, "rope_scaling": _longrope(48)}
_MEDIUM = {
    "_name_or_path": "Phi-3-medium-4k-instruct",
    "hidden_size": 5120,
    "intermediate_size": 17920,
    "num_attention_heads": 40,
    "num_hidden_layers": 40,
    "num_key_value_heads": 10,
    "transformers_version": "4.39.3",
}
_SMALL: dict[str, Any] = {
    "_name_or_path": "Phi-3-small-8k-instruct",
    "architectures": ["Phi3SmallForCausalLM"],
    "attention_dropout_prob": 0.0,
    "auto_map": {
        "AutoConfig": "configuration_phi3_small.Phi3SmallConfig",
        "AutoModelForCausalLM": "modeling_phi3_small.Phi3SmallForCausalLM",
        "AutoModelForSequenceClassification": "modeling_phi3_small.Phi3SmallForSequenceClassification",
        "AutoTokenizer": "tokenization_phi3_small.Phi3SmallTokenizer",
    },
    "blocksparse_block_size": 64,
    "blocksparse_homo_head_pattern": False,
    "blocksparse_num_local_blocks": 16,
    "blocksparse_triton_kernel_block_size": 64,
    "blocksparse_vert_stride": 8,
    "bos_token_id": 100257,
    "dense_attention_every_n_layers": 2,
    "embedding_dropout_prob": 0.1,
    "eos_token_id": 100257,
    "ff_dim_multiplier": None,
    "ff_intermediate_size": 14336,
    "ffn_dropout_prob": 0.1,
    "gegelu_limit": 20.0,
    "gegelu_pad_to_256": True,
    "hidden_act": "gegelu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05,
    "max_position_embeddings": 8192,
    "model_type": "phi3small",
    "mup_attn_multiplier": 1.0,
    "mup_embedding_multiplier": 10.0,
    "mup_use_scaling": True,
    "mup_width_multiplier": 8.0,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "pad_sequence_to_multiple_of_64": True,
    "reorder_and_upcast_attn": False,
    "rope_embedding_base": 1000000,
    "rope_position_scale": 1.0,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.38.1",
    "use_cache": True,
    "attention_bias": False,
    "vocab_size": 100352,
}
_SMALL_ROPE = {
    "long_mscale": 1.143544,
    "original_max_position_embeddings": 8192,
    "short_mscale": 1.0,
}
_LLAMA: dict[str, Any] = {
    "_name_or_path": "meta-llama/Llama-2-7b-hf",
    "architectures": ["LlamaForCausalLM"],
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 11008,
    "max_position_embeddings": 4096,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "transformers_version": "4.31.0.dev0",
    "use_cache": True,
    "vocab_size": 32000,
}
_SMOL: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 576,
    "initializer_range": 0.041666666666666664,
    "intermediate_size": 1536,
    "is_llama_config": True,
    "max_position_embeddings": 8192,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 9,
    "num_hidden_layers": 30,
    "num_key_value_heads": 3,
    "pad_token_id": 2,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_interleaved": False,
    "rope_scaling": None,
    "rope_theta": 100000,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.42.3",
    "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16", "fp16": "float16"}},
    "use_cache": True,
    "vocab_size": 49152,
}

# By the name of `targets.models.KNOWN_MODELS`, where it has one.
REAL_CONFIGS: dict[str, dict[str, Any]] = {
    "phi-3-mini-4k-instruct": _PHI3,
    "phi-3-mini-128k-instruct": _PHI3 | _LONG | {"_name_or_path": "Phi-3-mini-128k-instruct"},
    # The first release of 2024-04 calls it "su".
    "phi-3-mini-128k-instruct, first release": _PHI3 | _LONG | {"rope_scaling": _longrope(48, "su")},
    "phi-3-medium-4k-instruct": _PHI3 | _MEDIUM,
    "phi-3-medium-128k-instruct": _PHI3 | _MEDIUM | _LONG | {"sliding_window": 131072, "rope_scaling": _longrope(64)},
    "phi-3-small-8k-instruct": _SMALL,
    "phi-3-small-128k-instruct": _SMALL
    | {"max_position_embeddings": 131072, "rope_scaling": _longrope(64, "su", **_SMALL_ROPE)},
    "phi-3.5-mini-instruct": _PHI3 | _LONG | {"_name_or_path": "Phi-3.5-mini-instruct"},
    "phi-4": _PHI3
    | _MEDIUM
    | {
        "bos_token_id": 100257,
        "eos_token_id": 100257,
        "pad_token_id": 100257,
        "max_position_embeddings": 16384,
        "original_max_position_embeddings": 16384,
        "rope_theta": 250000,
        "sliding_window": None,
        "vocab_size": 100352,
        "transformers_version": "4.47.0",
    },
    "phi-4-mini-instruct": _PHI3
    | _LONG
    | {
        "bos_token_id": 199999,
        "eos_token_id": 199999,
        "pad_token_id": 199999,
        "full_attn_mod": 1,
        "interpolate_factor": 1,
        "lm_head_bias": False,
        "mlp_bias": False,
        "num_attention_heads": 24,
        "num_key_value_heads": 8,
        "partial_rotary_factor": 0.75,
        "tie_word_embeddings": True,
        "vocab_size": 200064,
        "transformers_version": "4.45.0",
    },
    "llama-2-7b": _LLAMA,
    "tinyllama-1.1b-chat": _LLAMA
    | {
        "attention_bias": False,
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "max_position_embeddings": 2048,
        "num_hidden_layers": 22,
        "num_key_value_heads": 4,
        "rope_theta": 10000.0,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.35.0",
    },
    "smollm2-135m-instruct": _SMOL,
    "smollm2-1.7b-instruct": {key: _SMOL[key] for key in _SMOL if key not in ("is_llama_config", "rope_interleaved")}
    | {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_attention_heads": 32,
        "num_hidden_layers": 24,
        "num_key_value_heads": 32,
        "rope_theta": 130000,
    },
}
