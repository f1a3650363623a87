"""Phi-3-small in plain numpy, float64, from PHI3.md's formulas: the stored tensors under their stored names.

Nothing of phipack is used, so that it can be held against this.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

Arrays = dict[str, np.ndarray]


def plain_logits(folder: Path, tokens: np.ndarray) -> np.ndarray:
    """Logits [T, vocabulary] after each of T tokens, from an empty context."""
    config = json.loads((folder / "config.json").read_bytes())
    with safe_open(folder / "model.safetensors", "pt") as file:
        weights = {name: file.get_tensor(name).double().numpy() for name in file.keys()}  # noqa: SIM118 - no mapping
    table = weights["model.embed_tokens.weight"]
    stream = table[tokens] * config["mup_embedding_multiplier"]
    for layer in range(config["num_hidden_layers"]):
        own = {name.split(".", 3)[3]: value for name, value in weights.items() if f".layers.{layer}." in name}
        stream = stream + attention(config, own, layer, layer_norm(stream, own, "input_layernorm"))
        stream = stream + mlp(config, own, layer_norm(stream, own, "post_attention_layernorm"))
    final = layer_norm(stream, weights, "model.final_layernorm")
    logits = final @ weights.get("lm_head.weight", table).T / config["mup_width_multiplier"]
    logits[:, config["dummy_token_indices"]] = -np.inf
    return logits


def layer_norm(rows: np.ndarray, weights: Arrays, name: str) -> np.ndarray:
    mean, variance = rows.mean(-1, keepdims=True), rows.var(-1, keepdims=True)
    return (rows - mean) / np.sqrt(variance + 1e-5) * weights[name + ".weight"] + weights[name + ".bias"]


def linear(rows: np.ndarray, weights: Arrays, name: str) -> np.ndarray:
    return rows @ weights[name + ".weight"].T + weights[name + ".bias"]


def mlp(config: dict[str, Any], weights: Arrays, rows: np.ndarray) -> np.ndarray:
    mixed, limit = linear(rows, weights, "mlp.up_proj"), config["gegelu_limit"]
    g, straight = mixed[:, 0::2], mixed[:, 1::2]
    g = np.where(np.isinf(g), g, np.minimum(g, limit))
    straight = np.where(np.isinf(straight), straight, np.minimum(np.maximum(straight, -limit), limit))
    return linear(g * (1 / (1 + np.exp(-1.702 * g))) * (straight + 1), weights, "mlp.down_proj")


def attention(config: dict[str, Any], weights: Arrays, layer: int, rows: np.ndarray) -> np.ndarray:
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    size, per_key = config["hidden_size"] // heads, heads // kv_heads
    grouped = linear(rows, weights, "self_attn.query_key_value").reshape(len(rows), kv_heads, per_key + 2, size)
    outputs = np.empty((len(rows), heads, size))
    for head in range(heads):
        group, place = divmod(head, per_key)
        query = rotated(config, grouped[:, group, place])
        key, value = rotated(config, grouped[:, group, per_key]), grouped[:, group, per_key + 1]
        for position in range(len(rows)):
            seen = [other for other in range(position + 1) if sees(config, layer, head, position, other)]
            scores = key[seen] @ query[position] * config["mup_attn_multiplier"] / size
            shares = np.exp(scores - scores.max())
            outputs[position, head] = shares / shares.sum() @ value[seen]
    return linear(outputs.reshape(len(rows), -1), weights, "self_attn.dense")


def sees(config: dict[str, Any], layer: int, head: int, query: int, key: int) -> bool:
    if (layer + 1) % config["dense_attention_every_n_layers"] == 0:
        return True
    block = config["blocksparse_block_size"]
    q, k = query // block, key // block
    return q - k < config["blocksparse_num_local_blocks"] or (k + head + 1) % config["blocksparse_vert_stride"] == 0


def rotated(config: dict[str, Any], head: np.ndarray) -> np.ndarray:
    """Rotate [T, size] by position: pairs (i, i + size / 2)."""
    half = head.shape[1] // 2
    frequencies = 1 / config["rope_embedding_base"] ** (np.arange(half) / half)
    factor, scaling = 1.0, config["rope_scaling"]
    if scaling is not None:
        long = len(head) > scaling["original_max_position_embeddings"]
        frequencies = frequencies / np.array(scaling["long_factor" if long else "short_factor"])
        factor = scaling["long_mscale" if long else "short_mscale"]
    turned = np.empty_like(head)
    for position in range(len(head)):
        cosine, sine = factor * np.cos(position * frequencies), factor * np.sin(position * frequencies)
        first, second = head[position, :half], head[position, half:]
        turned[position] = np.concatenate([first * cosine - second * sine, second * cosine + first * sine])
    return turned
