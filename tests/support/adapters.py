"""Adapters that peft itself makes and merges: what `builders.checkpoint.adapter` is held to."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from builders.oracle.peft_merge import bare_layers

PREFIX = "base_model.model."
FUSED = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
SEPARATE = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SMALL = ["query_key_value", "dense", "up_proj", "down_proj"]


def load_model(base: Path, vocabulary_size: int | None = None) -> Any:
    """The base in the dtype of its files: transformers' own class, or for Phi-3-small bare layers of the same names."""
    import torch
    import transformers

    config = json.loads((base / "config.json").read_bytes())
    if config["model_type"] == "phi3small":
        return bare_layers(safetensors_of(base / "model.safetensors"))
    tensors = safetensors_of(base / "model.safetensors")
    dtype = next(iter(tensors.values())).dtype
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=dtype, attn_implementation="eager")
    if vocabulary_size is not None:
        torch.manual_seed(1)
        model.resize_token_embeddings(vocabulary_size)
    return model


def write_adapter(base: Path, out: Path, *, seed: int = 0, vocabulary_size: int | None = None, **changes: Any) -> Path:
    """Write a random adapter of a base with peft's `save_pretrained`. `changes`: of `LoraConfig`, or of saving."""
    import peft
    import torch

    save = {key: changes.pop(key) for key in ("save_embedding_layers",) if key in changes}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = load_model(base, vocabulary_size)
        settings = {"r": 4, "lora_alpha": 6, "target_modules": FUSED, "task_type": "CAUSAL_LM"} | changes
        adapted = peft.get_peft_model(model, peft.LoraConfig(**settings))
        torch.manual_seed(seed)
        for name, parameter in adapted.named_parameters():
            if parameter.requires_grad:
                noise = 0.1 * torch.randn_like(parameter)
                parameter.data = noise if ".lora_" in name and "magnitude" not in name else parameter.data + noise
        adapted.save_pretrained(out, **save)
    return out


def peft_merges(base: Path, adapter: Path, vocabulary_size: int | None = None) -> Any:
    """The model after peft's `merge_and_unload`, in the dtype of the base's files."""
    import peft

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.PeftModel.from_pretrained(load_model(base, vocabulary_size), adapter)
        return model.merge_and_unload()


def change_config(adapter: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change adapter_config.json in place."""
    path = adapter / "adapter_config.json"
    content = json.loads(path.read_bytes())
    change(content)
    path.write_text(json.dumps(content), "utf-8")


def change_tensors(adapter: Path, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    """Change adapter_model.safetensors in place. Its tensors are float32."""
    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def safetensors_of(path: Path) -> dict[str, Any]:
    """A file's tensors, as torch's."""
    from safetensors.torch import load_file as load

    return dict(load(path))
