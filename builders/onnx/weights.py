"""Tensors of a checkpoint on their way into the data file: read, stored as planned, forgotten; then used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from builders.build import BuildRequest
from builders.onnx.datafile import DataFile, another_view
from builders.onnx.graph import Graph
from builders.onnx.quantize import quantize
from targets.errors import CheckpointError
from targets.storage.onnx import Plain, storage_of

# MatMulNBits rounds its input to 8 bits per block at level 4, and leaves it in float32 at level 1.
ACCURACY_LEVEL = 4


class Weights:
    """Writes each tensor once, on first use, and appends the nodes that compute with it. Activations are float32."""

    def __init__(self, request: BuildRequest, graph: Graph, data: DataFile) -> None:
        self._request = request
        self._graph = graph
        self._data = data
        self._shapes = request.checkpoint.architecture.tensor_shapes()
        self._stored: dict[str, tuple[Any, ...]] = {}

    def vector(self, name: str) -> str:
        """Store a vector (a norm's weight); gives the initializer's name."""
        return str(self._tensors(name)[0].name)

    def rows(self, name: str, ids: str) -> str:
        """Look up rows of a matrix [rows, columns] by ids: float32 [..., columns]."""
        storage = storage_of(name, self._request.recipe)
        tensors = self._tensors(name)
        if isinstance(storage, Plain):
            found = self._graph.node("Gather", [tensors[0].name, ids], f"{name}.rows")
            return self._graph.cast(found, "float32", f"{name}.rows.float32")
        rows, columns = self._shapes[name]
        table = another_view(tensors[0], f"{name}.table", (rows, columns * storage.bits // 8))
        (found,) = self._graph.fused(
            "GatherBlockQuantized",
            [self._graph.initializer(table), ids, *(tensor.name for tensor in tensors[1:])],
            [f"{name}.rows"],
            bits=storage.bits,
            block_size=storage.size,
            gather_axis=0,
            quantize_axis=1,
        )
        return self._graph.cast(found, "float32", f"{name}.rows.float32")

    def product(self, value: str, name: str, output: str) -> str:
        """Multiply float32 [..., columns] with the transpose of a matrix [rows, columns]: float32 [..., rows]."""
        storage = storage_of(name, self._request.recipe)
        tensors = self._tensors(name)
        if isinstance(storage, Plain):
            # Folded into a float32 weight when a runtime loads the graph.
            weight = self._graph.cast(tensors[0].name, "float32", f"{name}.float32")
            return self._graph.fused("FusedMatMul", [value, weight], [output], transB=1)[0]
        codes, scales, *zero_points = (tensor.name for tensor in tensors)
        # Folded likewise: MatMulNBits wants scales of its input's type.
        wide = self._graph.cast(scales, "float32", f"{scales}.float32")
        rows, columns = self._shapes[name]
        return self._graph.fused(
            "MatMulNBits",
            [value, codes, wide, *zero_points],
            [output],
            K=columns,
            N=rows,
            bits=storage.bits,
            block_size=storage.size,
            accuracy_level=ACCURACY_LEVEL,
        )[0]

    def _tensors(self, name: str) -> tuple[Any, ...]:
        if name not in self._stored:
            self._request.progress("storing weights", len(self._stored), len(self._shapes))
            self._stored[name] = tuple(self._store(name))
            for tensor in self._stored[name]:
                self._graph.initializer(tensor)
        return self._stored[name]

    def _store(self, name: str) -> Iterator[Any]:
        storage = storage_of(name, self._request.recipe)
        values = self._request.checkpoint.tensor(name)
        if isinstance(storage, Plain):
            yield self._data.write(name, _narrow(values, storage, name))
            return
        try:
            quantized = quantize(values, storage)
        except OverflowError as error:
            raise CheckpointError(f"tensor {name!r}: {error}") from error
        for part, array in zip(("codes", "scales", "zero_points"), quantized.arrays, strict=False):
            yield self._data.write(f"{name}.{part}", array)


def _narrow(values: NDArray[np.float32], storage: Plain, name: str) -> NDArray[Any]:
    with np.errstate(over="ignore"):
        narrow = values.astype(storage.dtype)
    if not np.isfinite(narrow).all():
        raise CheckpointError(
            f"tensor {name!r} holds {np.abs(values).max():g}, which float16 can't: its largest is 65504",
            fix="build onnx-int4, or a GGUF recipe",
        )
    return narrow
