"""Phi-3's decoder as an ONNX graph, in the layout that onnxruntime-genai runs as model type `phi3`.

    input_ids ── rows of embedding ─┐
                                    ▼  for each layer
        norm ── qkv product ── GroupQueryAttention (rotates, masks, keeps the cache) ── output product
        skip + norm ── gate_up product ── Split ── SiLU(gate) * up ── down product
                                    ▼
        skip + norm ── head product ── logits

    attention_mask ── how long is the sequence ── GroupQueryAttention of all layers

Names of inputs and outputs, and the fused operators, are those of onnxruntime-genai's own models (source: its
documentation and model builder). Activations and logits are float32; keys, values and attention have the cache's type.
"""

from __future__ import annotations

from dataclasses import dataclass

from builders.onnx.graph import Graph
from builders.onnx.weights import Weights
from targets.architecture import Architecture


@dataclass(frozen=True)
class Positions:
    """What attention must know of the sequence: names of graph values.

    `ids` is empty where positions follow from the lengths.
    """

    last: str  # int32 [batch]: position of each sequence's last token
    total: str  # int32 scalar: tokens in the cache and in this call together
    cosines: str
    sines: str
    ids: str
    cache_dtype: str  # float16 or float32: keys, values, and both tables


class Decoder:
    """Appends the decoder to a graph; declares all inputs and outputs but `attention_mask`."""

    def __init__(self, graph: Graph, weights: Weights, architecture: Architecture, positions: Positions) -> None:
        self._graph = graph
        self._weights = weights
        self._architecture = architecture
        self._positions = positions

    def write(self) -> None:
        """Append everything from `input_ids` to `logits`. Tensors are read in the order of the checkpoint's list."""
        architecture, graph = self._architecture, self._graph
        ids = graph.input("input_ids", "int64", ["batch", "sequence"])
        residual = self._weights.rows("model.embed_tokens.weight", ids)
        value = self._first_norm(residual)
        for layer in range(architecture.layer_count):
            attended = self._attention(layer, value)
            norm = f"model.layers.{layer}.post_attention_layernorm.weight"
            value, residual = self._skip_norm(attended, residual, norm, f"layers.{layer}.mlp.norm")
            added = self._mlp(layer, value)
            if layer + 1 == architecture.layer_count:
                value, residual = self._skip_norm(added, residual, "model.norm.weight", "final.norm")
            else:
                norm = f"model.layers.{layer + 1}.input_layernorm.weight"
                value, residual = self._skip_norm(added, residual, norm, f"layers.{layer + 1}.attention.norm")
        self._weights.product(value, architecture.head_tensor, "logits")
        graph.output("logits", "float32", ["batch", "sequence", architecture.vocabulary_size])

    def _first_norm(self, value: str) -> str:
        weight = self._weights.vector("model.layers.0.input_layernorm.weight")
        return self._graph.node(
            "SimplifiedLayerNormalization",
            [value, weight],
            "layers.0.attention.norm",
            axis=-1,
            epsilon=self._architecture.norm_epsilon,
            stash_type=1,
        )

    def _skip_norm(self, value: str, residual: str, weight: str, output: str) -> tuple[str, str]:
        """Add to the residual stream, and normalise the sum: gives the normalised value and the sum."""
        normalised, _, _, total = self._graph.fused(
            "SkipSimplifiedLayerNormalization",
            [value, residual, self._weights.vector(weight)],
            [output, "", "", f"{output}.sum"],
            epsilon=self._architecture.norm_epsilon,
        )
        return normalised, total

    def _attention(self, layer: int, value: str) -> str:
        architecture, graph, positions = self._architecture, self._graph, self._positions
        tensors, name = f"model.layers.{layer}.self_attn.", f"layers.{layer}.attention."
        window = architecture.effective_window
        shape: list[int | str] = ["batch", architecture.kv_head_count, "past", architecture.head_dim]
        grown = [*shape[:2], "total", shape[3]]
        past = [
            graph.input(f"past_key_values.{layer}.{kind}", positions.cache_dtype, shape) for kind in ("key", "value")
        ]
        present = [f"present.{layer}.{kind}" for kind in ("key", "value")]
        for cache in present:
            graph.output(cache, positions.cache_dtype, grown)
        qkv = self._weights.product(value, f"{tensors}qkv_proj.weight", f"{name}qkv")
        narrow = positions.cache_dtype != "float32"
        if narrow:
            qkv = graph.cast(qkv, positions.cache_dtype, f"{name}qkv.narrow")
        tables = [positions.cosines, positions.sines, positions.ids]
        attended, *_ = graph.fused(
            "GroupQueryAttention",
            [qkv, "", "", *past, positions.last, positions.total, *(table for table in tables if table)],
            [f"{name}heads", *present],
            num_heads=architecture.head_count,
            kv_num_heads=architecture.kv_head_count,
            scale=architecture.head_dim**-0.5,
            do_rotary=1,
            rotary_interleaved=0,
            local_window_size=-1 if window is None else window,  # both count the token itself
        )
        if narrow:
            attended = graph.cast(attended, "float32", f"{name}heads.float32")
        return self._weights.product(attended, f"{tensors}o_proj.weight", f"{name}output")

    def _mlp(self, layer: int, value: str) -> str:
        graph, name = self._graph, f"layers.{layer}.mlp."
        both = self._weights.product(value, f"model.layers.{layer}.mlp.gate_up_proj.weight", f"{name}gate_up")
        gate, up = graph.nodes("Split", [both, "intermediate_sizes"], [f"{name}gate", f"{name}up"], axis=-1)
        (active,) = graph.fused("QuickGelu", [gate], [f"{name}silu"], alpha=1.0)  # x * sigmoid(x)
        inner = graph.node("Mul", [active, up], f"{name}inner")
        return self._weights.product(inner, f"model.layers.{layer}.mlp.down_proj.weight", f"{name}output")
