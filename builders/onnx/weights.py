"""Tensors of a checkpoint on their way into the data file: read, stored as planned, forgotten; then used."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from builders.build import BuildRequest
from builders.onnx.datafile import DataFile, another_view
from builders.onnx.graph import Graph
from builders.onnx.quantize import quantize
from targets.errors import CheckpointError
from targets.storage.onnx import Blocks, Plain, Stacked, Storage, storage_of

# MatMulNBits rounds its input to 8 bits per block at level 4, and leaves it in float32 at level 1.
ACCURACY_LEVEL = 4


class Weights:
    """Writes each tensor once, on first use, and appends the nodes that compute with it. Activations are float32."""

    def __init__(self, request: BuildRequest, graph: Graph, data: DataFile) -> None:
        self._request = request
        self._graph = graph
        self._data = data
        self._shapes = request.checkpoint.architecture.tensor_shapes()
        self._stored: dict[
            str, list[list[Any]]
        ] = {}  # of a checkpoint's tensor: for each group of rows its TensorProtos

    def vector(self, name: str) -> str:
        """Store a vector (a norm's weight); gives the initializer's name."""
        return self._graph.initializer(self._groups(name)[0][0])

    def rows(self, name: str, ids: str) -> str:
        """Look up rows of a matrix [rows, columns] by ids: float32 [..., columns]."""
        storage = self._storage(name)
        (tensors,) = self._groups(name)
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

    def product(self, value: str, name: str, output: str) -> str:
        """Multiply float32 [..., columns] with the transpose of a matrix [rows, columns]: float32 [..., rows]."""
        storage = self._storage(name)
        groups = self._groups(name)
        if isinstance(storage, Stacked):
            parts = [
                self._block_product(value, tensors, blocks, f"{output}.{number}")
                for number, (tensors, (_, blocks)) in enumerate(zip(groups, storage.groups, strict=True))
            ]
            return self._graph.node("Concat", parts, output, axis=-1)
        if isinstance(storage, Blocks):
            return self._block_product(value, groups[0], storage, output)
        # Folded into a float32 weight when a runtime loads the graph.
        weight = self._graph.cast(self._graph.initializer(groups[0][0]), "float32", f"{name}.float32")
        return self._graph.fused("FusedMatMul", [value, weight], [output], transB=1)[0]

    def _block_product(self, value: str, tensors: list[Any], blocks: Blocks, output: str) -> str:
        codes, scales, *zero_points = tensors
        # Folded likewise: MatMulNBits wants scales of its input's type.
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

    def _groups(self, name: str) -> list[list[Any]]:
        if name not in self._stored:
            self._request.progress("storing weights", len(self._stored), len(self._shapes))
            self._stored[name] = self._store(name)
        return self._stored[name]

    def _store(self, name: str) -> list[list[Any]]:
        storage = self._storage(name)
        values = self._request.checkpoint.tensor(name)
        if isinstance(storage, Plain):
            return [[self._data.write(name, _narrow(values, storage, name))]]
        if isinstance(storage, Blocks):
            return [self._store_blocks(values, storage, name)]
        groups, start = [], 0
        for number, (rows, blocks) in enumerate(storage.groups):
            groups.append(self._store_blocks(values[start : start + rows], blocks, f"{name}.{number}"))
            start += rows
        return groups

    def _store_blocks(self, values: NDArray[np.float32], blocks: Blocks, name: str) -> list[Any]:
        try:
            quantized = quantize(values, blocks)
        except OverflowError as error:
            raise CheckpointError(f"tensor {name!r}: {error}") from error
        parts = ("codes", "scales", "zero_points")
        return [self._data.write(f"{name}.{part}", array) for part, array in zip(parts, quantized.arrays, strict=False)]


def _narrow(values: NDArray[np.float32], storage: Plain, name: str) -> NDArray[Any]:
    with np.errstate(over="ignore"):
        narrow = values.astype(storage.dtype)
    if not np.isfinite(narrow).all():
        raise CheckpointError(
            f"tensor {name!r} holds {np.abs(values).max():g}, which float16 can't: its largest is 65504",
            fix="build onnx-int4, or a GGUF recipe",
        )
    return narrow
