"""`genai_config.json`: how onnxruntime-genai drives the graph.

Format: onnxruntime-genai's "config reference"; keys as its own model builder writes them. The model's type
says at which length the runtime must read a sequence again with longrope's other factors; otherwise it treats these
types alike.
"""

from __future__ import annotations

import json
from typing import Any

from builders.checkpoint import Checkpoint
from builders.tokenizer import named_id, stop_token_ids
from targets.architecture import Family

CONFIG_NAME = "genai_config.json"
MODEL_TYPES: dict[Family, str] = {"phi3": "phi3", "llama": "llama", "phi3small": "phi3small"}


def runtime_config(checkpoint: Checkpoint, context_length: int) -> bytes:
    """Return `genai_config.json` for a graph whose longest sequence is `context_length` tokens."""
    config = {"model": _model(checkpoint, context_length), "search": _search(context_length)}
    return (json.dumps(config, indent=2, allow_nan=False) + "\n").encode()


def _model(checkpoint: Checkpoint, context_length: int) -> dict[str, Any]:
    architecture = checkpoint.architecture
    stop = list(stop_token_ids(checkpoint))
    first = stop[0] if stop else 0
    model: dict[str, Any] = {
        "type": MODEL_TYPES[architecture.family],
        "context_length": context_length,
        "vocab_size": architecture.vocabulary_size,
        "eos_token_id": stop,
        "decoder": {
            "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
            "filename": "model.onnx",
            "head_size": architecture.head_dim,
            "hidden_size": architecture.hidden_size,
            "num_attention_heads": architecture.head_count,
            "num_hidden_layers": architecture.layer_count,
            "num_key_value_heads": architecture.kv_head_count,
            "inputs": {
                "input_ids": "input_ids",
                "attention_mask": "attention_mask",
                "past_key_names": "past_key_values.%d.key",
                "past_value_names": "past_key_values.%d.value",
            },
            "outputs": {
                "logits": "logits",
                "present_key_names": "present.%d.key",
                "present_value_names": "present.%d.value",
            },
        },
    }
    for key in ("bos_token_id", "pad_token_id"):
        value = named_id(checkpoint, key)
        model[key] = first if value is None else value
    return model


def _search(context_length: int) -> dict[str, Any]:
    return {
        "do_sample": False,
        "early_stopping": True,
        "max_length": context_length,
        "min_length": 0,
        "num_beams": 1,
        "num_return_sequences": 1,
        "past_present_share_buffer": True,
        "repetition_penalty": 1.0,
        "temperature": 1.0,
        "top_k": 1,
        "top_p": 1.0,
    }
