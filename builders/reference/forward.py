"""Phi-3's forward pass in float32, streamed: layer by layer over all sequences, one layer's weights in memory.

The formulas are transformers' `Phi3ForCausalLM`: RMSNorm, fused qkv with rotary embedding on halves, grouped-query
attention under a causal (and sliding) mask, SwiGLU. longrope: the short factors while the whole sequence fits in the
original context, the long ones beyond, and cosines and sines times the attention factor either way (arXiv 2402.13753).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from builders.build import Progress, silent
from builders.checkpoint import Checkpoint
from targets.architecture import Architecture

if TYPE_CHECKING:
    from torch import Tensor


def hidden_states(
    checkpoint: Checkpoint, tokens: NDArray[np.int64], progress: Progress = silent
) -> NDArray[np.float32]:
    """Run sequences [B, T] from an empty context and give the hidden states after the last norm, [B, T, hidden].

    Memory: one layer's weights, the states themselves, and one sequence's attention scores.
    """
    import torch

    architecture = checkpoint.architecture
    batch, length = tokens.shape
    with torch.inference_mode():
        embedding = checkpoint.tensor("model.embed_tokens.weight")
        states = torch.from_numpy(embedding[tokens])
        del embedding
        cosines, sines = (torch.from_numpy(table) for table in rotary_tables(architecture, length))
        mask = _mask(architecture, length)
        for layer in range(architecture.layer_count):
            progress("reference in float32, layer by layer", layer, architecture.layer_count)
            weights = _layer_weights(checkpoint, layer)
            for row in range(batch):
                states[row] = _block(architecture, weights, states[row], cosines, sines, mask)
        progress("reference in float32, layer by layer", architecture.layer_count, architecture.layer_count)
        norm = torch.from_numpy(checkpoint.tensor("model.norm.weight"))
        return np.asarray(_rms_norm(states, norm, architecture.norm_epsilon).numpy())


def rotary_tables(architecture: Architecture, length: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Give cosines and sines [length, head_dim / 2] of a sequence of that whole length, attention factor included.

    Computed in float64: at position 100,000 a float32 angle is off by .004.
    """
    half = architecture.head_dim // 2
    frequencies = architecture.rope_theta ** (-np.arange(half, dtype=np.float64) / half)
    scale = 1.0
    if architecture.longrope is not None:
        rope = architecture.longrope
        is_short = length <= rope.original_context
        frequencies = frequencies / np.asarray(rope.short if is_short else rope.long, dtype=np.float64)
        scale = rope.short_attention_factor if is_short else rope.long_attention_factor
    angles = np.arange(length, dtype=np.float64)[:, None] * frequencies[None, :]
    return (np.cos(angles) * scale).astype(np.float32), (np.sin(angles) * scale).astype(np.float32)


def _layer_weights(checkpoint: Checkpoint, layer: int) -> dict[str, Tensor]:
    import torch

    prefix = f"model.layers.{layer}."
    names = (name for name in checkpoint.architecture.tensor_shapes() if name.startswith(prefix))
    return {
        name.removeprefix(prefix).removesuffix(".weight"): torch.from_numpy(checkpoint.tensor(name)) for name in names
    }


def _block(
    architecture: Architecture,
    weights: dict[str, Tensor],
    states: Tensor,
    cosines: Tensor,
    sines: Tensor,
    mask: Tensor,
) -> Tensor:
    """One decoder block over one sequence: states [T, hidden] in and out."""
    from torch.nn import functional

    length, heads, kv_heads = len(states), architecture.head_count, architecture.kv_head_count
    normed = _rms_norm(states, weights["input_layernorm"], architecture.norm_epsilon)
    qkv = functional.linear(normed, weights["self_attn.qkv_proj"])
    widths = [architecture.query_width, architecture.kv_width, architecture.kv_width]
    q, k, v = (part.view(length, -1, architecture.head_dim).transpose(0, 1) for part in qkv.split(widths, dim=-1))
    q, k = _rotated(q, cosines, sines), _rotated(k, cosines, sines)
    k, v = (part.repeat_interleave(heads // kv_heads, dim=0) for part in (k, v))
    attended = functional.scaled_dot_product_attention(q[None], k[None], v[None], attn_mask=mask)[0]
    states = states + functional.linear(attended.transpose(0, 1).reshape(length, -1), weights["self_attn.o_proj"])
    normed = _rms_norm(states, weights["post_attention_layernorm"], architecture.norm_epsilon)
    gate, up = functional.linear(normed, weights["mlp.gate_up_proj"]).chunk(2, dim=-1)
    return states + functional.linear(functional.silu(gate) * up, weights["mlp.down_proj"])


def _mask(architecture: Architecture, length: int) -> Tensor:
    """True where row (query) sees column (key), [T, T]: itself and those before it, at most `sliding_window` in all."""
    import torch

    rows, columns = torch.arange(length)[:, None], torch.arange(length)[None, :]
    seen = columns <= rows
    if architecture.sliding_window is not None:
        seen &= rows - columns < architecture.sliding_window
    return seen


def _rms_norm(states: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    import torch

    return states * torch.rsqrt(states.pow(2).mean(-1, keepdim=True) + epsilon) * weight


def _rotated(heads: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotate pairs (i, i + d/2) of [heads, T, d] by the position's angles [T, d/2]."""
    import torch

    first, second = heads.chunk(2, dim=-1)
    return torch.cat((first * cosines - second * sines, second * cosines + first * sines), dim=-1)
