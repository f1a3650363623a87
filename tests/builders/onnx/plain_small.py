"""Phi-3-small written plainly in numpy, from the formulas alone: the whole sequence at once, no cache, no streaming."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from builders.checkpoint import Checkpoint, open_checkpoint


def small_logits(folder: Path, tokens: np.ndarray) -> np.ndarray:
    """Logits [T, vocabulary] in float64, those of hidden ids minus infinity."""
    checkpoint = open_checkpoint(folder)
    architecture = checkpoint.architecture
    weights = {name: checkpoint.tensor(name).astype(np.float64) for name in architecture.tensor_shapes()}
    states = weights["model.embed_tokens.weight"][tokens] * architecture.embedding_multiplier
    for layer in range(architecture.layer_count):
        prefix = f"model.layers.{layer}."
        own = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
        states = states + _attention(checkpoint, own, layer, _norm(states, own, "input_layernorm"))
        states = states + _mlp(own, _norm(states, own, "post_attention_layernorm"), architecture.gegelu_limit)
    logits = _norm(states, weights, "model.norm") @ weights[architecture.head_tensor].T / architecture.logit_divisor
    logits[:, list(architecture.hidden_token_ids)] = -np.inf
    return logits


def _norm(states: np.ndarray, weights: dict[str, np.ndarray], name: str) -> np.ndarray:
    centred = states - states.mean(-1, keepdims=True)
    scaled = centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + 1e-5)
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def _linear(states: np.ndarray, weights: dict[str, np.ndarray], name: str) -> np.ndarray:
    return states @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def _mlp(weights: dict[str, np.ndarray], states: np.ndarray, limit: float) -> np.ndarray:
    gate, up = np.split(_linear(states, weights, "mlp.gate_up_proj"), 2, axis=-1)
    gate, up = np.minimum(gate, limit), np.clip(up, -limit, limit)
    return _linear(gate / (1 + np.exp(-1.702 * gate)) * (up + 1), weights, "mlp.down_proj")


def _attention(checkpoint: Checkpoint, weights: dict[str, np.ndarray], layer: int, states: np.ndarray) -> np.ndarray:
    architecture = checkpoint.architecture
    size, length = architecture.head_dim, len(states)
    qkv = _linear(states, weights, "self_attn.qkv_proj").reshape(length, -1, size)
    heads, kv_heads = architecture.head_count, architecture.kv_head_count
    q, k, v = qkv[:, :heads], qkv[:, heads : heads + kv_heads], qkv[:, heads + kv_heads :]
    q, k = _rotated(checkpoint, q), _rotated(checkpoint, k)
    attended = []
    for head in range(heads):
        group = head // (heads // kv_heads)
        scores = q[:, head] @ k[:, group].T * checkpoint.config["mup_attn_multiplier"] / size
        scores[~_seen(checkpoint, layer, head, length)] = -np.inf
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        attended.append(shares / shares.sum(-1, keepdims=True) @ v[:, group])
    return _linear(np.concatenate(attended, axis=-1), weights, "self_attn.o_proj")


def _seen(checkpoint: Checkpoint, layer: int, head: int, length: int) -> np.ndarray:
    config = checkpoint.config
    query, key = np.arange(length)[:, None], np.arange(length)[None, :]
    if (layer + 1) % config["dense_attention_every_n_layers"] == 0:
        return key <= query
    block = config["blocksparse_block_size"]
    local = query // block - key // block < config["blocksparse_num_local_blocks"]
    return (key <= query) & (local | ((key // block + head + 1) % config["blocksparse_vert_stride"] == 0))


def _rotated(checkpoint: Checkpoint, heads: np.ndarray) -> np.ndarray:
    scaling, size = checkpoint.config["rope_scaling"], heads.shape[-1]
    periods, factor = 1e6 ** (np.arange(0, size, 2) / size), 1.0
    if scaling is not None:
        side = "short" if len(heads) <= scaling["original_max_position_embeddings"] else "long"
        periods, factor = periods * scaling[f"{side}_factor"], scaling[f"{side}_mscale"]
    angles = np.arange(len(heads))[:, None, None] / periods
    first, second = np.split(heads, 2, axis=-1)
    cosines, sines = np.cos(angles) * factor, np.sin(angles) * factor
    return np.concatenate([first * cosines - second * sines, second * cosines + first * sines], axis=-1)
