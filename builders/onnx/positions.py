"""What attention must know of the sequence: nodes that read lengths from the mask, and tables that layers share.

With longrope's edge inside the context, position ids choose the rows of the rotary tables: a sequence past the edge
reads those of the long factors, which start at row `original_context`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from builders.conversion import BuildRequest
from builders.onnx.datafile import DataFile
from builders.onnx.graph import Graph
from builders.onnx.rotary import rotary_tables
from builders.onnx.sparse import sparse_indices
from targets.storage.onnx import cache_dtype, rotary_arrays, sparse_arrays


@dataclass(frozen=True)
class Positions:
    """Names of graph values.

    `ids` is empty where positions follow from the lengths; `block_rows` and `block_columns` where no layer is sparse.
    """

    last: str  # int32 [batch]: position of each sequence's last token
    lengths: str  # int32 [batch]: tokens of each sequence, those of this call included
    total: str  # int32 scalar: tokens in the cache and in this call together
    cosines: str
    sines: str
    ids: str  # int64 [batch, sequence]: rows of the tables
    block_rows: str  # int32: builders/onnx/sparse.py
    block_columns: str
    cache_dtype: str  # float16 or float32: keys, values, and both tables


def write_positions(graph: Graph, data: DataFile, request: BuildRequest) -> Positions:
    """Append the nodes that read lengths from the mask, and promise the tables."""
    architecture, context = request.checkpoint.architecture, request.context_length
    edge = architecture.longrope_edge(context)
    mask = graph.input("attention_mask", "int64", ["batch", "total"])
    one, axis = graph.integers("one", 1), graph.integers("last_axis", [1])
    lengths = graph.node("ReduceSum", [mask, axis], "lengths", keepdims=0)
    last = graph.cast(graph.node("Sub", [lengths, one], "last.int64"), "int32", "last_position")
    total = graph.node("Gather", [graph.node("Shape", [mask], "mask_shape"), one], "total.int64")
    block_rows, block_columns = _sparse_indices(graph, data, request)
    cosines, sines = _tables(graph, data, request)
    return Positions(
        last=last,
        lengths=graph.cast(lengths, "int32", "lengths.int32") if block_rows else "",
        total=graph.cast(total, "int32", "total_length"),
        cosines=cosines,
        sines=sines,
        ids="" if edge is None else _longrope_rows(graph, lengths, total, edge),
        block_rows=block_rows,
        block_columns=block_columns,
        cache_dtype=cache_dtype(request.recipe),
    )


def _tables(graph: Graph, data: DataFile, request: BuildRequest) -> tuple[str, str]:
    architecture, context = request.checkpoint.architecture, request.context_length
    dtype = cache_dtype(request.recipe)

    def make() -> list[NDArray[Any]]:
        return [table.astype(dtype) for table in rotary_tables(architecture, context)]

    cosines, sines = data.promise("rotary", rotary_arrays(architecture, request.recipe, context), make)
    return graph.initializer(cosines), graph.initializer(sines)


def _sparse_indices(graph: Graph, data: DataFile, request: BuildRequest) -> tuple[str, str]:
    architecture, context = request.checkpoint.architecture, request.context_length
    sparse = architecture.effective_sparsity(context)
    if sparse is None:
        return "", ""
    rows, columns = data.promise(
        "attention",
        sparse_arrays(architecture, context),
        lambda: sparse_indices(architecture, sparse, context),
    )
    return graph.initializer(rows), graph.initializer(columns)


def _longrope_rows(graph: Graph, lengths: str, total: str, original_context: int) -> str:
    """Append row numbers [batch, sequence] of the tables: max(length - sequence, 0) + 0, 1, 2 … (+ edge, past it)."""
    zero, one, last_axis = graph.integers("zero", 0), "one", "last_axis"
    edge = graph.integers("original_context", original_context)
    sequence = graph.node("Gather", [graph.node("Shape", ["input_ids"], "ids_shape"), one], "sequence_length")
    past = graph.node("Max", [graph.node("Sub", [lengths, sequence], "past.signed"), zero], "past_lengths")
    is_long = graph.cast(graph.node("Greater", [total, edge], "is_long"), "int64", "is_long.int64")
    start = graph.node("Add", [past, graph.node("Mul", [is_long, edge], "long_offset")], "first_rows")
    steps = graph.node("Range", [zero, sequence, one], "steps")
    return graph.node("Add", [graph.node("Unsqueeze", [start, last_axis], "first_rows.column"), steps], "rotary_rows")
