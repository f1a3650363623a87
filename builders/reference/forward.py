"""The forward pass in float32, streamed: layer by layer over all sequences, one layer's weights in memory.

The formulas are transformers' `Phi3ForCausalLM`: RMSNorm, fused qkv with rotary embedding on halves, grouped-query
attention under a causal (and sliding) mask, SwiGLU. longrope: the short factors while the whole sequence fits in the
original context, the long ones beyond, and cosines and sines times the attention factor either way (arXiv 2402.13753).
Phi-4-mini rotates only the first `rotary_dim` elements of a head.
Phi-3-small's formulas are those of the modeling file in its repositories: LayerNorm, biases, muP's multipliers, GEGLU,
and block-sparse layers (`attention_masks.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from builders.checkpoint import TensorSource
from builders.reference.attention_masks import seen_keys
from builders.reference.elementwise import few_at_once
from builders.reference.products import bfloat16_parts, bfloat16_product, product
from targets.architecture import Architecture
from targets.progress import Progress, Step, silent

if TYPE_CHECKING:
    from torch import Tensor

# Called with what each matrix is multiplied with: its canonical name, and rows [tokens, columns] in float32.
Observer = Callable[[str, "Tensor"], None]
# Called with a layer's number, and its keys before rotation and values, [heads, T, head size].
CacheObserver = Callable[[int, "Tensor", "Tensor"], None]
QUICK_GELU = 1.702
# Rows multiplied with a matrix at once: enough for full speed, and inner activations stay at 1,024 * 2 * MLP width.
_ROWS = 1024
_TOKENS = 4096  # of whole sequences whose queries, keys and values are in memory together
QUERIES = 256  # whose scores against all keys are in memory at once


def unobserved(name: str, rows: Tensor) -> None:
    """Observe nothing."""


def unobserved_cache(layer: int, keys: Tensor, values: Tensor) -> None:
    """Observe nothing."""


def hidden_states(
    architecture: Architecture,
    source: TensorSource,
    tokens: NDArray[np.int64],
    on_progress: Progress = silent,
    observe: Observer = unobserved,
    observe_cache: CacheObserver = unobserved_cache,
) -> NDArray[np.float32]:
    """Run sequences [B, T] from an empty context, and return the hidden states after the last norm, [B, T, hidden].

    Memory: one layer's weights, the states, queries, keys and values of a few sequences (of one where it is longer than
    4,096 tokens), and the attention scores of 256 queries: nothing grows with the square of the length.
    """
    return LayerWalk(architecture, source, tokens, observe, observe_cache=observe_cache).run_all(on_progress)


class LayerWalk:
    """Sequences [B, T] on their way through the layers.

    `states`: hidden states [B, T, hidden] to go on from, those after some layer; by default the embedded tokens.
    """

    def __init__(
        self,
        architecture: Architecture,
        source: TensorSource,
        tokens: NDArray[np.int64],
        observe: Observer = unobserved,
        *,
        observe_cache: CacheObserver = unobserved_cache,
        states: NDArray[np.float32] | None = None,
    ) -> None:
        import torch

        self._architecture = architecture
        self._source = source
        self._observe = observe
        self._observe_cache = observe_cache
        length = tokens.shape[1]
        self._tables = tuple(torch.from_numpy(table) for table in rotary_tables(architecture, length))
        self._at_once = max(1, _TOKENS // length)  # sequences
        if states is None:
            states = source.rows("model.embed_tokens.weight", tokens)
            states *= np.float32(architecture.embedding_multiplier)
        self._states = torch.from_numpy(states)

    @property
    def states(self) -> NDArray[np.float32]:
        """The hidden states [B, T, hidden] after the last layer that was run. The next one overwrites them."""
        return np.asarray(self._states.numpy())

    def run(self, number: int) -> None:
        """Run the sequences through a layer, in place. Its weights are in memory meanwhile."""
        import torch

        weights = read_weights(self._architecture, self._source, f"model.layers.{number}.")
        layer = self._layer(self._architecture, number, weights, self._observe, self._observe_cache)
        with torch.inference_mode():
            for sequences in self._states.split(self._at_once):
                layer.run(sequences, *self._tables)

    @property
    def _layer(self) -> type[Layer]:
        """What computes a layer."""
        return Layer

    def run_all(self, on_progress: Progress) -> NDArray[np.float32]:
        """Run the sequences through all layers, and return `finish`'s states. Reports the step `reference`."""
        count = self._architecture.layer_count
        for layer in range(count):
            on_progress(Step("reference", layer, count, "layers"))
            self.run(layer)
        on_progress(Step("reference", count, count, "layers"))
        return self.finish()

    def finish(self) -> NDArray[np.float32]:
        """Return the hidden states after the last norm, [B, T, hidden]."""
        import torch

        architecture = self._architecture
        with torch.inference_mode():
            norm = read_weights(architecture, self._source, "model.norm.")
            states = apply_norm(self._states, norm, "model.norm", architecture.norm_epsilon)
            self._observe(architecture.head_tensor, states.flatten(0, 1))
            return np.asarray(states.numpy())


class StatisticsWalk(LayerWalk):
    """A walk for what its observers learn: its products are bfloat16's (`products.py`), its states not the model's."""

    @property
    def _layer(self) -> type[Layer]:
        return StatisticsLayer


def rotary_tables(architecture: Architecture, length: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return cosines and sines [length, rotary_dim / 2] of a sequence of that length, attention factor included.

    Computed in float64: at position 100,000 a float32 angle is off by .004.
    """
    half = architecture.rotary_dim // 2
    frequencies = architecture.rope_theta ** (-np.arange(half, dtype=np.float64) / half)
    scale = 1.0
    if architecture.longrope is not None:
        rope = architecture.longrope
        is_short = length <= rope.original_context
        frequencies = frequencies / np.asarray(rope.short if is_short else rope.long, dtype=np.float64)
        scale = rope.short_attention_factor if is_short else rope.long_attention_factor
    angles = np.arange(length, dtype=np.float64)[:, None] * frequencies[None, :]
    return (np.cos(angles) * scale).astype(np.float32), (np.sin(angles) * scale).astype(np.float32)


def read_weights(architecture: Architecture, source: TensorSource, prefix: str) -> dict[str, Tensor]:
    """Read the tensors whose canonical names start with `prefix`. Returns them by name."""
    import torch

    names = (name for name in architecture.tensor_shapes() if name.startswith(prefix))
    return {name: torch.from_numpy(source.tensor(name)) for name in names}


@dataclass(frozen=True)
class Layer:
    """One decoder block with its weights."""

    architecture: Architecture
    number: int
    weights: dict[str, Tensor]
    observe: Observer = unobserved
    observe_cache: CacheObserver = unobserved_cache

    def run(self, states: Tensor, cosines: Tensor, sines: Tensor) -> None:
        """Run sequences through the layer, in place: states [B, T, hidden]."""
        length = len(cosines)

        def attend(qkv: Tensor, attended: Tensor) -> None:
            for start in range(0, len(qkv), length):
                own = slice(start, start + length)
                self._attend(qkv[own], cosines, sines, attended[own])

        self.run_rows(states.view(-1, self.architecture.hidden_size), attend)

    def run_rows(self, rows: Tensor, attend: Callable[[Tensor, Tensor], None]) -> None:
        """Run tokens through the layer, in place: states [tokens, hidden].

        `attend`: computes attention of queries, keys and values [tokens, widths] into [tokens, query width].
        """
        architecture = self.architecture
        qkv = rows.new_empty(len(rows), architecture.query_width + 2 * architecture.kv_width)
        attended = rows.new_empty(len(rows), architecture.query_width)
        slices = [slice(start, start + _ROWS) for start in range(0, len(rows), _ROWS)]
        for part in slices:
            qkv[part] = self._linear(self._normed(rows[part], "input_layernorm"), "self_attn.qkv_proj")
        attend(qkv, attended)
        for part in slices:
            rows[part] += self._linear(attended[part], "self_attn.o_proj")
            rows[part] += self._mlp(self._normed(rows[part], "post_attention_layernorm"))

    def split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values [heads, T, head size] of [T, widths], views."""
        architecture = self.architecture
        widths = [architecture.query_width, architecture.kv_width, architecture.kv_width]
        q, k, v = (part.view(len(qkv), -1, architecture.head_dim).transpose(0, 1) for part in qkv.split(widths, dim=-1))
        return q, k, v

    def _attend(self, qkv: Tensor, cosines: Tensor, sines: Tensor, attended: Tensor) -> None:
        """Compute attention in one sequence: queries, keys and values [T, widths] to `attended` [T, query width]."""
        from torch.nn import functional

        architecture, length = self.architecture, len(qkv)
        q, k, v = self.split(qkv)
        self.observe_cache(self.number, k, v)
        q, k = rotated(q, cosines, sines), rotated(k, cosines, sines)
        group = architecture.head_count // architecture.kv_head_count
        k, v = (part.repeat_interleave(group, dim=0) for part in (k, v))
        for start in range(0, length, QUERIES):
            stop = min(start + QUERIES, length)
            heads = functional.scaled_dot_product_attention(
                q[None, :, start:stop],
                k[None, :, :stop],
                v[None, :, :stop],
                attn_mask=seen_keys(architecture, self.number, start, stop),
                scale=architecture.score_scale,
            )[0]
            attended[start:stop] = heads.transpose(0, 1).flatten(1)

    def _mlp(self, normed: Tensor) -> Tensor:
        import torch
        from torch.nn import functional

        gate, up = self._linear(normed, "mlp.gate_up_proj").chunk(2, dim=-1)
        limit = self.architecture.gegelu_limit
        if limit is None:
            inner = few_at_once(functional.silu, gate) * up
        else:
            # Infinities stay, as in the modeling file: an overflow must not look like a valid answer.
            gate = torch.where(gate.isinf(), gate, gate.clamp(max=limit))
            up = torch.where(up.isinf(), up, up.clamp(-limit, limit))
            inner = gate * few_at_once(torch.sigmoid, QUICK_GELU * gate) * (up + 1)
        return self._linear(inner, "mlp.down_proj")

    def _normed(self, rows: Tensor, stem: str) -> Tensor:
        return apply_norm(rows, self.weights, f"model.layers.{self.number}.{stem}", self.architecture.norm_epsilon)

    def _linear(self, rows: Tensor, stem: str) -> Tensor:
        name = f"model.layers.{self.number}.{stem}"
        self.observe(f"{name}.weight", rows)
        return self._product(rows, f"{name}.weight", self.weights.get(f"{name}.bias"))

    def _product(self, rows: Tensor, name: str, bias: Tensor | None) -> Tensor:
        return product(rows, self.weights[name], bias)


class StatisticsLayer(Layer):
    """A layer whose products are those of bfloat16 numbers."""

    @cached_property
    def _parts(self) -> dict[str, tuple[Tensor, ...]]:
        """The matrices as they are multiplied with; `weights` has them no longer."""
        names = [name for name, one in self.weights.items() if one.ndim > 1]
        return {name: bfloat16_parts(self.weights.pop(name)) for name in names}

    def _product(self, rows: Tensor, name: str, bias: Tensor | None) -> Tensor:
        return bfloat16_product(bfloat16_parts(rows), self._parts[name], bias)


def apply_norm(states: Tensor, weights: dict[str, Tensor], stem: str, epsilon: float) -> Tensor:
    """LayerNorm where there is a bias, else RMSNorm."""
    import torch
    from torch.nn import functional

    weight, bias = weights[f"{stem}.weight"], weights.get(f"{stem}.bias")
    if bias is not None:
        return functional.layer_norm(states, weight.shape, weight, bias, epsilon)
    return states * torch.rsqrt(states.pow(2).mean(-1, keepdim=True) + epsilon) * weight


def rotated(heads: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotate pairs (i, i + r/2) of [heads, T, d] by the position's angles [T, r/2]; elements from r on stay."""
    import torch

    half = cosines.shape[-1]
    first, second, rest = heads[..., :half], heads[..., half : 2 * half], heads[..., 2 * half :]
    return torch.cat((first * cosines - second * sines, second * cosines + first * sines, rest), dim=-1)
