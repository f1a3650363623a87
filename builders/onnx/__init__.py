"""A checkpoint into a folder that onnxruntime-genai runs.

    model.onnx          the graph
    model.onnx.data     the arrays that it points to
    genai_config.json   how onnxruntime-genai drives it

- `decoder.py`: Phi-3's layers as nodes. `graph.py`: what nodes are added to. `rotary.py`: tables of rotary positions.
- `weights.py`: a tensor read, stored as `targets/storage/onnx.py` plans it, and used. `quantize.py` and `datafile.py`
  serve it.
- `runtime_config.py`: `genai_config.json`.
- `session.py`, `generation.py`: the bundle run by onnxruntime and by onnxruntime-genai.

The graph is written node by node and each tensor goes to the data file as soon as it is read: memory holds one tensor.
"""

from __future__ import annotations

from collections import Counter
from importlib.metadata import version
from pathlib import Path

from builders.build import BuildRequest, Conversion
from builders.onnx.datafile import DataFile
from builders.onnx.decoder import Decoder, Positions
from builders.onnx.graph import Graph
from builders.onnx.rotary import rotary_tables
from builders.onnx.runtime_config import write_runtime_config
from builders.onnx.weights import Weights
from registry.bundle import WeightClass
from targets.recipes import Recipe
from targets.storage import StoredWeight
from targets.storage.onnx import cache_dtype, check, longrope_edge, plan

GRAPH_NAME = "model.onnx"
EDGE_FACT = (
    "phipack.longrope_edge"  # metadata of the graph: the longest sequence in tokens that takes the short factors
)
GENAI_EDGE = 4096  # tokens; the one edge at which onnxruntime-genai reads a sequence of type phi3 again

__all__ = ["EDGE_FACT", "GRAPH_NAME", "convert"]


def convert(request: BuildRequest, folder: Path) -> Conversion:
    """Write graph, arrays and runtime config into `folder`, where the tokenizer's files lie already.

    Raises:
        UnsupportedModelError: a head or row width that the operators can't take.
        CheckpointError: a tensor holds NaN, an infinity, or what float16 can't.
    """
    checkpoint, context = request.checkpoint, request.context_length
    architecture = checkpoint.architecture
    check(architecture, request.recipe)
    edge = longrope_edge(architecture, context)
    graph = Graph()
    with DataFile(folder) as data:
        positions = _positions(graph, data, request)
        graph.integers("intermediate_sizes", [architecture.intermediate_size] * 2)
        Decoder(graph, Weights(request, graph, data), architecture, positions).write()
    facts = {} if edge is None else {EDGE_FACT: str(edge)}
    (folder / GRAPH_NAME).write_bytes(graph.to_bytes(architecture.name, facts))
    write_runtime_config(checkpoint, context, folder)
    return Conversion(
        weights=_weight_classes(plan(architecture, request.recipe)),
        exact_context_length=context,
        notes=_notes(request.recipe, edge),
        tools={name: version(name) for name in ("onnx", "onnxruntime", "numpy")},
    )


def _notes(recipe: Recipe, edge: int | None) -> tuple[str, ...]:
    """What a reader of the manifest must know."""
    if recipe.name == "onnx-fp16":
        notes = ["weights and KV cache are float16; a CPU runtime widens the weights to float32 when it loads them"]
    else:
        notes = [
            "products round their input to 8 bits a block (MatMulNBits, accuracy level 4); the KV cache is float32"
        ]
    if edge is not None and edge != GENAI_EDGE:
        notes.append(
            f"onnxruntime-genai does not read a sequence again when it grows past {edge} tokens while generating: what "
            "follows there mixes short and long rotary factors; a prompt longer than that is exact"
        )
    return tuple(notes)


def _positions(graph: Graph, data: DataFile, request: BuildRequest) -> Positions:
    """Append the nodes that read lengths from the mask, and store the rotary tables.

    With longrope's edge inside the context, rows are picked by position ids: a sequence past the edge reads the tables
    of the long factors, which start at row `original_context`.
    """
    architecture, context = request.checkpoint.architecture, request.context_length
    edge = longrope_edge(architecture, context)
    mask = graph.input("attention_mask", "int64", ["batch", "total"])
    one, axis = graph.integers("one", 1), graph.integers("last_axis", [1])
    lengths = graph.node("ReduceSum", [mask, axis], "lengths", keepdims=0)
    last = graph.cast(graph.node("Sub", [lengths, one], "last.int64"), "int32", "last_position")
    total = graph.node("Gather", [graph.node("Shape", [mask], "mask_shape"), one], "total.int64")
    dtype = cache_dtype(request.recipe)
    cosines, sines = (
        graph.initializer(data.write(name, table.astype(dtype)))
        for name, table in zip(("cosines", "sines"), rotary_tables(architecture, context), strict=True)
    )
    ids = "" if edge is None else _longrope_rows(graph, lengths, total, edge)
    return Positions(last, graph.cast(total, "int32", "total_length"), cosines, sines, ids, dtype)


def _longrope_rows(graph: Graph, lengths: str, total: str, original_context: int) -> str:
    """Append: rows [batch, sequence] of the tables, max(length - sequence, 0) + 0, 1, 2 … (+ offset past the edge)."""
    zero, one, last_axis = graph.integers("zero", 0), "one", "last_axis"
    edge = graph.integers("original_context", original_context)
    sequence = graph.node("Gather", [graph.node("Shape", ["input_ids"], "ids_shape"), one], "sequence_length")
    past = graph.node("Max", [graph.node("Sub", [lengths, sequence], "past.signed"), zero], "past_lengths")
    is_long = graph.cast(graph.node("Greater", [total, edge], "is_long"), "int64", "is_long.int64")
    start = graph.node("Add", [past, graph.node("Mul", [is_long, edge], "long_offset")], "first_rows")
    steps = graph.node("Range", [zero, sequence, one], "steps")
    return graph.node("Add", [graph.node("Unsqueeze", [start, last_axis], "first_rows.column"), steps], "rotary_rows")


def _weight_classes(weights: tuple[StoredWeight, ...]) -> tuple[WeightClass, ...]:
    count = Counter(weight.storage for weight in weights)
    return tuple(
        WeightClass(storage=storage, tensors=tensors, bytes=sum(w.bytes for w in weights if w.storage == storage))
        for storage, tensors in sorted(count.items())
    )
