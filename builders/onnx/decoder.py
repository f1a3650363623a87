"""The decoder of all families as an ONNX graph, in the layout that onnxruntime-genai runs.

    input_ids ── rows of embedding (* multiplier) ─┐
                                    ▼  for each layer
        norm ── qkv product ── attention (rotates, masks, keeps the cache) ── output product
        skip + norm ── gate_up product ── Split ── gate's activation * up ── down product
                                    ▼
        skip + norm ── head product (/ divisor, hidden ids) ── logits

    attention_mask ── how long is the sequence ── attention of all layers

Names of inputs and outputs, and the fused operators, are those of onnxruntime-genai's own models (source: its
documentation and model builder). Activations and logits are float32; keys, values and attention have the cache's type.
"""

from __future__ import annotations

import numpy as np

from builders.onnx.attention import Attention
from builders.onnx.datafile import DataFile
from builders.onnx.graph import Graph
from builders.onnx.weights import Weights
from targets.architecture import Architecture
from targets.storage.onnx import hidden_arrays


class Decoder:
    """Appends the decoder to a graph; declares all inputs and outputs but `attention_mask`."""

    def __init__(
        self, graph: Graph, data: DataFile, weights: Weights, architecture: Architecture, attention: Attention
    ) -> None:
        self._graph = graph
        self._weights = weights
        self._architecture = architecture
        self._attention = attention
        self._hidden_ids = _hidden_ids(graph, data, architecture)

    def write(self) -> None:
        """Append everything from `input_ids` to `logits`. Tensors are promised in the checkpoint's order."""
        architecture, graph = self._architecture, self._graph
        ids = graph.input("input_ids", "int64", ["batch", "sequence"])
        residual = self._weights.rows("model.embed_tokens.weight", ids)
        if architecture.embedding_multiplier != 1:
            factor = graph.floats("embedding_multiplier", architecture.embedding_multiplier)
            residual = graph.node("Mul", [residual, factor], "embedded")
        value = self._first_norm(residual)
        for layer in range(architecture.layer_count):
            prefix, name = f"model.layers.{layer}.self_attn.", f"layers.{layer}.attention."
            qkv = self._weights.product(value, f"{prefix}qkv_proj", f"{name}qkv")
            attended = self._weights.product(self._attention.write(layer, qkv), f"{prefix}o_proj", f"{name}output")
            norm = f"model.layers.{layer}.post_attention_layernorm"
            value, residual = self._skip_norm(attended, residual, norm, f"layers.{layer}.mlp.norm")
            added = self._mlp(layer, value)
            if layer + 1 == architecture.layer_count:
                value, residual = self._skip_norm(added, residual, "model.norm", "final.norm")
            else:
                norm = f"model.layers.{layer + 1}.input_layernorm"
                value, residual = self._skip_norm(added, residual, norm, f"layers.{layer + 1}.attention.norm")
        self._head(value)

    def _first_norm(self, value: str) -> str:
        kind = "LayerNormalization" if self._architecture.biased else "SimplifiedLayerNormalization"
        return self._graph.node(
            kind,
            [value, *self._weights.vectors("model.layers.0.input_layernorm")],
            "layers.0.attention.norm",
            axis=-1,
            epsilon=self._architecture.norm_epsilon,
            stash_type=1,
        )

    def _skip_norm(self, value: str, residual: str, stem: str, output: str) -> tuple[str, str]:
        """Add to the residual stream, and normalise the sum. Returns the normalised value and the sum."""
        normalised, _, _, total = self._graph.fused(
            "SkipLayerNormalization" if self._architecture.biased else "SkipSimplifiedLayerNormalization",
            [value, residual, *self._weights.vectors(stem)],
            [output, "", "", f"{output}.sum"],
            epsilon=self._architecture.norm_epsilon,
        )
        return normalised, total

    def _mlp(self, layer: int, value: str) -> str:
        graph, name = self._graph, f"layers.{layer}.mlp."
        both = self._weights.product(value, f"model.layers.{layer}.mlp.gate_up_proj", f"{name}gate_up")
        sizes = graph.integers("intermediate_sizes", [self._architecture.intermediate_size] * 2)
        gate, up = graph.nodes("Split", [both, sizes], [f"{name}gate", f"{name}up"], axis=-1)
        alpha = 1.0  # x * sigmoid(alpha x): SiLU
        if self._architecture.gegelu_limit is not None:
            alpha = 1.702
            gate, up = self._clamped(name, gate, up, self._architecture.gegelu_limit)
        (active,) = graph.fused("QuickGelu", [gate], [f"{name}active"], alpha=alpha)
        inner = graph.node("Mul", [active, up], f"{name}inner")
        return self._weights.product(inner, f"model.layers.{layer}.mlp.down_proj", f"{name}output")

    def _clamped(self, name: str, gate: str, up: str, limit: float) -> tuple[str, str]:
        """Append Phi-3-small's clamps: gate at most the limit, up within ± the limit, and up + 1.

        The released code lets infinities pass, which float16 products overflow to; these are float32.
        """
        graph = self._graph
        high, low, one = (
            graph.floats(f"gegelu_{kind}", number) for kind, number in (("high", limit), ("low", -limit), ("one", 1))
        )
        gate = graph.node("Clip", [gate, "", high], f"{name}gate.clamped")
        up = graph.node("Clip", [up, low, high], f"{name}up.clamped")
        return gate, graph.node("Add", [up, one], f"{name}up.shifted")

    def _head(self, value: str) -> None:
        architecture, graph = self._architecture, self._graph
        divisor, hidden_ids = architecture.logit_divisor, self._hidden_ids
        names = ["head", *["divided"] * (divisor != 1), *["masked"] * bool(hidden_ids)]
        names[-1] = "logits"
        logits = self._weights.product(value, architecture.head_tensor.removesuffix(".weight"), names.pop(0))
        if divisor != 1:
            logits = graph.node("Div", [logits, graph.floats("logit_divisor", divisor)], names.pop(0))
        if hidden_ids:
            graph.node("Add", [logits, hidden_ids], names.pop(0))
        graph.output("logits", "float32", ["batch", "sequence", architecture.vocabulary_size])


def _hidden_ids(graph: Graph, data: DataFile, architecture: Architecture) -> str:
    """Promise a vector that, added, makes the logits of hidden ids minus infinity. Returns "" where none is hidden."""
    if not architecture.hidden_token_ids:
        return ""
    added = np.zeros(architecture.vocabulary_size, dtype=np.float32)
    added[list(architecture.hidden_token_ids)] = -np.inf
    (tensor,) = data.promise("hidden_ids", hidden_arrays(architecture), lambda: [added])
    return graph.initializer(tensor)
