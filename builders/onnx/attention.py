"""Attention of one layer as nodes. The fused operators rotate, mask and keep the cache.

- Dense, with or without a sliding window: GroupQueryAttention.
- Block-sparse (Phi-3-small): SparseAttention. It takes no position ids, so where these choose rows of the rotary tables
  (longrope's edge inside the context) queries and keys are rotated before it, by RotaryEmbedding.
"""

from __future__ import annotations

from collections.abc import Sequence

from builders.onnx.cache_scales import CacheScales
from builders.onnx.graph import Graph
from builders.onnx.positions import Positions
from targets.architecture import Architecture, BlockSparse

K_SCALE = 12  # the input of GroupQueryAttention with the scales of keys; those of values are the next
# A scale for each element of a head: docs/ContribOperators.md in microsoft/onnxruntime.
QUANTIZED_CACHE = {"kv_cache_bit_width": 8, "k_quant_type": "PER_CHANNEL", "v_quant_type": "PER_CHANNEL"}


class Attention:
    """Appends attention between the qkv product and the output product; declares the cache's inputs and outputs."""

    def __init__(self, graph: Graph, architecture: Architecture, positions: Positions, scales: CacheScales) -> None:
        self._graph = graph
        self._architecture = architecture
        self._positions = positions
        self._scales = scales

    def write(self, layer: int, qkv: str) -> str:
        """Append a layer's attention over float32 [batch, sequence, q + k + v]: float32 [batch, sequence, q]."""
        graph, dtype, name = self._graph, self._positions.cache_dtype, f"layers.{layer}.attention."
        past, present = self._caches(layer)
        narrow = dtype != "float32"
        if narrow:
            qkv = graph.cast(qkv, dtype, f"{name}qkv.narrow")
        pattern = self._architecture.block_sparse
        if self._positions.block_rows and pattern is not None and pattern.is_sparse(layer):
            attended = self._sparse(name, qkv, past, present, pattern)
        else:
            attended = self._dense(name, qkv, past, present, self._scales.of(layer))
        return graph.cast(attended, "float32", f"{name}heads.float32") if narrow else attended

    def _caches(self, layer: int) -> tuple[list[str], list[str]]:
        architecture, dtype = self._architecture, self._scales.element_type or self._positions.cache_dtype
        shape: list[int | str] = ["batch", architecture.kv_head_count, "past", architecture.head_dim]
        # SparseAttention's cache is one buffer of fixed length for input and output. Both kinds of layers declare it
        # that way, so that a runtime can keep one shape.
        grown = shape if self._positions.block_rows else [*shape[:2], "total", shape[3]]
        past = [self._graph.input(f"past_key_values.{layer}.{kind}", dtype, shape) for kind in ("key", "value")]
        present = [f"present.{layer}.{kind}" for kind in ("key", "value")]
        for cache in present:
            self._graph.output(cache, dtype, grown)
        return past, present

    def _dense(self, name: str, qkv: str, past: list[str], present: list[str], scales: Sequence[str]) -> str:
        architecture, positions = self._architecture, self._positions
        window = architecture.effective_window
        tables = [positions.cosines, positions.sines, positions.ids]
        inputs = [qkv, "", "", *past, positions.last, positions.total, *(table for table in tables if table)]
        if scales:
            inputs += [""] * (K_SCALE - len(inputs)) + [*scales]
        return self._graph.fused(
            "GroupQueryAttention",
            inputs,
            [f"{name}heads", *present],
            num_heads=architecture.head_count,
            kv_num_heads=architecture.kv_head_count,
            scale=architecture.score_scale,
            do_rotary=1,
            rotary_interleaved=0,
            local_window_size=-1 if window is None else window,  # both count the token itself
            **(QUANTIZED_CACHE if scales else {}),
        )[0]

    def _sparse(self, name: str, qkv: str, past: list[str], present: list[str], pattern: BlockSparse) -> str:
        architecture, positions = self._architecture, self._positions
        rotates_itself = not positions.ids
        heads = [qkv, "", ""] if rotates_itself else self._rotated(name, qkv)
        tables = [positions.cosines, positions.sines] if rotates_itself else []
        lengths = [positions.total, positions.lengths]
        return self._graph.fused(
            "SparseAttention",
            [*heads, *past, positions.block_rows, positions.block_columns, *lengths, *tables],
            [f"{name}heads", *present],
            num_heads=architecture.head_count,
            kv_num_heads=architecture.kv_head_count,
            scale=architecture.score_scale,
            sparse_block_size=pattern.block_size,
            do_rotary=int(rotates_itself),
            rotary_interleaved=0,
        )[0]

    def _rotated(self, name: str, qkv: str) -> list[str]:
        """Append a split into queries, keys and values, queries and keys rotated by the rows that `ids` chooses."""
        graph, architecture, positions = self._graph, self._architecture, self._positions
        widths = graph.integers("qkv_widths", [architecture.query_width, *[architecture.kv_width] * 2])
        parts = graph.nodes("Split", [qkv, widths], [f"{name}{part}" for part in "qkv"], axis=-1)
        counts = (architecture.head_count, architecture.kv_head_count)
        rotated = [
            graph.fused(
                "RotaryEmbedding",
                [part, positions.ids, positions.cosines, positions.sines],
                [f"{part}.rotated"],
                num_heads=count,
                interleaved=0,
            )[0]
            for part, count in zip(parts[:2], counts, strict=True)
        ]
        return [*rotated, parts[2]]
