"""The real model with its width of 576 padded by zeros to 768, so that K-quants can store it.

Blocks of K-quants have 256 values: of the model as it is, llama.cpp stores most matrices in Q5_0 and Q8_0 in their
place. The padded model computes the same, but for one rounding of its norms to float16:

    embeddings, inputs of qkv and gate_up, outputs of o and down    192 columns or rows of zeros more
    heads                                                           3 of zeros more, and a key head of zeros
    norms                                                           their mean is over 768: gains times sqrt(576 / 768),
                                                                    and epsilon times 576 / 768

    CACHE/real-model/smollm2-135m-padded/ and smollm2-135m-dithered-padded/
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devtools import real_model
from devtools.dithered import ensure_dithered
from devtools.packages import default_cache
from devtools.phi3_from_gguf import write_json
from registry.files.staging import staged_folder

BLOCK = 256  # values of a block of K-quants
Floats = NDArray[np.float32]


def ensure_padded(cache: Path | None = None, *, dithered: bool = False) -> Path:
    """Return the path of the checkpoint's folder; it is made the first time."""
    cache = default_cache() if cache is None else cache
    source = ensure_dithered(cache) if dithered else real_model.ensure(cache).checkpoint
    folder = source.with_name(f"{source.name}-padded")
    if not (folder / "config.json").is_file():
        write_padded(source, folder)
    return folder


def write_padded(checkpoint: Path, folder: Path) -> None:
    """Write a copy of a `Phi3ForCausalLM` checkpoint in one file, with its width padded to whole blocks."""
    from safetensors.numpy import load_file, save_file

    config = json.loads((checkpoint / "config.json").read_bytes())
    weights = load_file(checkpoint / "model.safetensors")
    for name, values in weights.items():
        weights[name] = padded(name, values.astype(np.float32), config).astype(values.dtype)
    with staged_folder(folder, replace=True) as staging:
        for file in checkpoint.iterdir():
            if file.name not in ("model.safetensors", "origin.json", "config.json"):
                shutil.copyfile(file, staging / file.name)
        write_json(staging / "config.json", padded_config(config))
        save_file(weights, staging / "model.safetensors", metadata={"format": "pt"})


def padded_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return a config with a width of whole blocks, and heads of the same width to fill it."""
    width, heads = config["hidden_size"], config["num_attention_heads"]
    wide = -(-width // BLOCK) * BLOCK
    group = heads // config["num_key_value_heads"]
    wide_heads = wide * heads // width
    return config | {
        "hidden_size": wide,
        "num_attention_heads": wide_heads,
        "num_key_value_heads": wide_heads // group,
        "rms_norm_eps": config["rms_norm_eps"] * width / wide,
    }


def padded(name: str, values: Floats, config: dict[str, Any]) -> Floats:
    """Return a tensor, padded. `config`: the checkpoint's own."""
    now, then = _widths(config), _widths(padded_config(config))
    if values.ndim == 1:
        return _grown(values * np.sqrt(now["hidden"] / then["hidden"]), [then["hidden"]])
    if name.endswith("qkv_proj.weight"):
        parts = np.split(values, np.cumsum([now["query"], now["key"]]))
        heights = (then["query"], then["key"], then["key"])
        grown = [_grown(part, [height, then["hidden"]]) for part, height in zip(parts, heights, strict=True)]
        return np.concatenate(grown)
    if name.endswith("o_proj.weight"):
        return _grown(values, [then["hidden"], then["query"]])
    if name.endswith("down_proj.weight"):
        return _grown(values, [then["hidden"], values.shape[1]])
    return _grown(values, [values.shape[0], then["hidden"]])


def _widths(config: dict[str, Any]) -> dict[str, int]:
    head = config["hidden_size"] // config["num_attention_heads"]
    return {
        "hidden": config["hidden_size"],
        "query": head * config["num_attention_heads"],
        "key": head * config["num_key_value_heads"],
    }


def _grown(values: Floats, shape: list[int]) -> Floats:
    """Return values in the first rows and columns of zeros."""
    grown = np.zeros(shape, np.float32)
    grown[tuple(slice(size) for size in values.shape)] = values
    return grown
