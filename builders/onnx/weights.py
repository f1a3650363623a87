"""Tensors of a checkpoint as nodes that compute with them, and as promises to the data file (kept by `storing.py`).

Names are stems: `model.layers.0.mlp.down_proj` has a `.weight` and, where the architecture is biased, a `.bias`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from builders.conversion import BuildRequest
from builders.onnx.datafile import DataFile, another_view
from builders.onnx.graph import Graph
from builders.onnx.storing import stored_arrays
from targets.storage.onnx import Blocks, Stacked, Storage, storage_of

# MatMulNBits rounds its input to 8 bits per block at level 4, and leaves it in float32 at level 1.
ACCURACY_LEVEL = 4


class Weights:
    """Promises each tensor once, on first use, and appends the nodes that compute with it. Activations are float32."""

    def __init__(self, request: BuildRequest, graph: Graph, data: DataFile) -> None:
        self._request = request
        self._graph = graph
        self._data = data
        self._shapes = request.checkpoint.architecture.tensor_shapes()
        self._promised: dict[str, list[Any]] = {}  # of a checkpoint's tensor: the TensorProtos of its arrays

    def vectors(self, stem: str) -> list[str]:
        """Return the initializers of a norm: its weight and, where it has one, its bias."""
        names = (f"{stem}.weight", f"{stem}.bias")
        return [self._graph.initializer(self._tensors(name)[0]) for name in names if name in self._shapes]

    def rows(self, name: str, ids: str) -> str:
        """Look up rows of a matrix [rows, columns] by ids: float32 [..., columns]."""
        storage, tensors = self._storage(name), self._tensors(name)
        if isinstance(storage, Blocks):
            rows, columns = self._shapes[name]
            table = another_view(tensors[0], f"{name}.table", (rows, columns * storage.bits // 8))
            self._graph.fused(
                "GatherBlockQuantized",
                [self._graph.initializer(table), ids, *map(self._graph.initializer, tensors[1:])],
                [f"{name}.rows"],
                bits=storage.bits,
                block_size=storage.size,
                gather_axis=0,
                quantize_axis=1,
            )
        else:
            self._graph.node("Gather", [self._graph.initializer(tensors[0]), ids], f"{name}.rows")
        return self._graph.cast(f"{name}.rows", "float32", f"{name}.rows.float32")

    def product(self, value: str, stem: str, output: str) -> str:
        """Multiply float32 [..., columns] with a matrix [rows, columns], transposed, and add its bias: [..., rows]."""
        bias = f"{stem}.bias"
        if bias not in self._shapes:
            return self._unbiased(value, f"{stem}.weight", output)
        unbiased = self._unbiased(value, f"{stem}.weight", f"{output}.unbiased")
        return self._graph.node("Add", [unbiased, self._graph.initializer(self._tensors(bias)[0])], output)

    def _unbiased(self, value: str, name: str, output: str) -> str:
        storage, tensors = self._storage(name), self._tensors(name)
        if isinstance(storage, Stacked):
            parts, start = [], 0
            for number, (rows, blocks) in enumerate(storage.groups):
                count = len(blocks.arrays((rows, self._shapes[name][1])))
                group = tensors[start : start + count]
                parts.append(self._block_product(value, group, blocks, f"{output}.{number}"))
                start += count
            return self._graph.node("Concat", parts, output, axis=-1)
        if isinstance(storage, Blocks):
            return self._block_product(value, tensors, storage, output)
        # Folded into a float32 weight when a runtime loads the graph.
        weight = self._graph.cast(self._graph.initializer(tensors[0]), "float32", f"{name}.float32")
        return self._graph.fused("FusedMatMul", [value, weight], [output], transB=1)[0]

    def _block_product(self, value: str, tensors: list[Any], blocks: Blocks, output: str) -> str:
        codes, scales, *zero_points = tensors
        # Folded in the same way: MatMulNBits needs scales of its input's type.
        wide = self._graph.cast(self._graph.initializer(scales), "float32", f"{scales.name}.float32")
        rows, count = scales.dims
        return self._graph.fused(
            "MatMulNBits",
            [value, self._graph.initializer(codes), wide, *map(self._graph.initializer, zero_points)],
            [output],
            K=count * blocks.size,
            N=rows,
            bits=blocks.bits,
            block_size=blocks.size,
            accuracy_level=ACCURACY_LEVEL,
        )[0]

    def _storage(self, name: str) -> Storage:
        return storage_of(name, self._request.checkpoint.architecture, self._request.recipe)

    def _tensors(self, name: str) -> list[Any]:
        if name not in self._promised:
            storage = self._storage(name)
            self._promised[name] = self._data.promise(
                name, storage.arrays(self._shapes[name]), partial(stored_arrays, self._request, name, storage)
            )
        return self._promised[name]
