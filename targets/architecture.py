"""The shape of a model: the facts that every builder needs. `config_json.py` reads them from `config.json`.

Field names follow what the numbers mean, not how a config spells them. All families use one order of tensors and
rows, that of Phi-3 (transformers' `Phi3ForCausalLM`): fused rows are [q | k | v] and [gate | up]. Where a checkpoint
stores them differently, `layouts.py` lists the stored tensors that each canonical tensor is assembled from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class LongRope:
    """Per-frequency divisors: `short` while the sequence fits in `original_context`, `long` beyond it.

    Cosines and sines are multiplied by the attention factor of the set in use.
    """

    short: tuple[float, ...]
    long: tuple[float, ...]
    original_context: int
    short_attention_factor: float
    long_attention_factor: float


@dataclass(frozen=True)
class BlockSparse:
    """Attention of Phi-3-small's sparse layers, in blocks of `block_size` tokens.

    Head h of a query in block q sees the keys of block k (causally) where q - k < `local_blocks` or
    (k + h + 1) % `vertical_stride` == 0. Layer i, from 0, is dense where (i + 1) % `dense_every` == 0, and every layer
    is sparse where `dense_every` is 0.
    """

    block_size: int
    local_blocks: int
    vertical_stride: int
    dense_every: int

    def is_sparse(self, layer: int) -> bool:
        """Return True if the layer (from 0) does not attend to all earlier tokens."""
        return self.dense_every == 0 or (layer + 1) % self.dense_every != 0

    @property
    def dense_up_to(self) -> int:
        """Longest sequence in tokens for which a sparse layer equals a dense one."""
        return self.block_size * self.local_blocks


Family = Literal["phi3", "llama", "phi3small"]


@dataclass(frozen=True)
class Architecture:
    """The shape of a decoder. Lengths are in tokens, sizes in elements.

    `gegelu_limit`: None for SwiGLU (silu(gate) * up); a number for Phi-3-small's gate: with g = gate clamped to at most
    the limit and l = up clamped to ± the limit, g * sigmoid(1.702 g) * (l + 1).
    `biased`: norms are LayerNorm and have a bias, as all matrices in the layers do; otherwise RMSNorm and no biases.
    `hidden_token_ids`: ids whose logits are minus infinity.
    `partial_rotary_dim`: None where whole heads are rotated; otherwise the first elements of a head, as many as this,
    are rotated as if they were the head, and the others keep their values (Phi-4-mini).
    """

    name: str
    layer_count: int
    hidden_size: int
    intermediate_size: int
    head_count: int
    kv_head_count: int
    head_dim: int
    vocabulary_size: int
    context_length: int
    rope_theta: float
    norm_epsilon: float
    tied_embeddings: bool
    sliding_window: int | None = None
    longrope: LongRope | None = None
    family: Family = "phi3"
    biased: bool = False
    gegelu_limit: float | None = None
    attention_scale: float | None = None  # scale of the scores; None means head_dim ** -0.5, see `score_scale`
    embedding_multiplier: float = 1.0  # embedded tokens are multiplied by it
    logit_divisor: float = 1.0
    block_sparse: BlockSparse | None = None
    hidden_token_ids: tuple[int, ...] = ()
    partial_rotary_dim: int | None = None  # see `rotary_dim`

    @property
    def rotary_dim(self) -> int:
        """Elements of a head that are rotated, from its first on: pairs (i, i + rotary_dim / 2)."""
        return self.head_dim if self.partial_rotary_dim is None else self.partial_rotary_dim

    @property
    def score_scale(self) -> float:
        """The factor by which products of queries and keys are multiplied."""
        return self.head_dim**-0.5 if self.attention_scale is None else self.attention_scale

    @property
    def query_width(self) -> int:
        """Width of all query heads together."""
        return self.head_count * self.head_dim

    @property
    def kv_width(self) -> int:
        """Width of all key heads together (values: the same)."""
        return self.kv_head_count * self.head_dim

    @property
    def effective_window(self) -> int | None:
        """The sliding window, or None if the context is too short for it to have an effect."""
        if self.sliding_window is None or self.sliding_window >= self.context_length:
            return None
        return self.sliding_window

    def edges(self, context_length: int) -> dict[str, int]:
        """Return the longest sequence, in tokens, before attention or rope changes, by what changes."""
        found = {"the sliding window": self.effective_window, "longrope's edge": self.longrope_edge(context_length)}
        return {name: edge for name, edge in found.items() if edge is not None}

    def longrope_edge(self, context_length: int) -> int | None:
        """Return the longest sequence, in tokens, with longrope's short factors; None if no context is longer."""
        rope = self.longrope
        return None if rope is None or context_length <= rope.original_context else rope.original_context

    def effective_sparsity(self, length: int) -> BlockSparse | None:
        """Return the sparse layers' pattern, or None if each of `length` tokens attends to all earlier ones."""
        sparse = self.block_sparse
        return None if sparse is None or length <= sparse.dense_up_to else sparse

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every tensor by its canonical name, in file order. Matrices are [out, in].

        Canonical names are those of Phi-3. A bias has its weight's name with `.bias` in place of `.weight`.
        """
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocabulary_size, self.hidden_size)}
        for layer in range(self.layer_count):
            prefix = f"model.layers.{layer}."
            self._add(shapes, prefix + "input_layernorm", (self.hidden_size,))
            self._add(shapes, prefix + "self_attn.qkv_proj", (self.query_width + 2 * self.kv_width, self.hidden_size))
            self._add(shapes, prefix + "self_attn.o_proj", (self.hidden_size, self.query_width))
            self._add(shapes, prefix + "post_attention_layernorm", (self.hidden_size,))
            self._add(shapes, prefix + "mlp.gate_up_proj", (2 * self.intermediate_size, self.hidden_size))
            self._add(shapes, prefix + "mlp.down_proj", (self.hidden_size, self.intermediate_size))
        self._add(shapes, "model.norm", (self.hidden_size,))
        if not self.tied_embeddings:
            shapes["lm_head.weight"] = (self.vocabulary_size, self.hidden_size)
        return shapes

    def _add(self, shapes: dict[str, tuple[int, ...]], stem: str, shape: tuple[int, ...]) -> None:
        shapes[f"{stem}.weight"] = shape
        if self.biased:
            shapes[f"{stem}.bias"] = shape[:1]

    @property
    def head_tensor(self) -> str:
        """Name of the tensor that produces the logits: the embedding itself if it is tied."""
        return "model.embed_tokens.weight" if self.tied_embeddings else "lm_head.weight"

    @property
    def parameter_count(self) -> int:
        """Elements of all tensors."""
        return sum(math.prod(shape) for shape in self.tensor_shapes().values())

    def kv_cache_bytes(self, tokens: int, *, bytes_per_value: int = 2) -> int:
        """Return the bytes of keys and values of `tokens` positions over all layers."""
        return 2 * self.layer_count * self.kv_width * tokens * bytes_per_value
