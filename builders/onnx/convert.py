"""A checkpoint into a folder that onnxruntime-genai runs.

    model.onnx          the graph
    model.onnx.data     the arrays that it points to
    genai_config.json   how onnxruntime-genai drives it

The graph is written node by node with promises in the place of arrays, so that all sizes are known before any weight
is read; then each tensor is read, stored and dropped: memory holds two tensors.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import numpy as np

from builders.conversion import (
    BuildRequest,
    Conversion,
    attention_factors,
    require_range,
    weight_classes,
    window_notes,
)
from builders.onnx.attention import Attention
from builders.onnx.cache_scales import CacheScales
from builders.onnx.datafile import DATA_NAME, DataFile
from builders.onnx.decoder import Decoder
from builders.onnx.graph import Graph
from builders.onnx.positions import write_positions
from builders.onnx.runtime_config import CONFIG_NAME, runtime_config
from builders.onnx.tokenizer_notes import template_notes, tokenizer_notes
from builders.onnx.weights import Weights
from targets.architecture import Family
from targets.recipes import Recipe
from targets.storage.onnx import cache_dtype, check, plan

GRAPH_NAME = "model.onnx"
# Metadata of the graph: the longest sequence, in tokens, that takes longrope's short factors.
EDGE_FACT = "phipack.longrope_edge"
# Length in tokens at which onnxruntime-genai reads a growing sequence of a model of that family again.
GENAI_EDGES: dict[Family, int] = {"phi3": 4096, "phi3small": 8192}


def convert(request: BuildRequest, folder: Path) -> Conversion:
    """Write graph, arrays and runtime config into `folder`, which already has the tokenizer's files.

    Raises:
        UnsupportedModelError: a head or row width that the operators don't support, or a number out of float16's range.
        CheckpointError: a tensor holds NaN, an infinity, or what float16 can't represent.
        CalibrationError: keys or values overflow, so that an int8 KV cache can't store them.
    """
    checkpoint, context = request.checkpoint, request.context_length
    graph, data = _planned(request)
    digest = data.write(folder, request)
    (folder / GRAPH_NAME).write_bytes(graph)
    (folder / CONFIG_NAME).write_bytes(runtime_config(checkpoint, context))
    return Conversion(
        weights=weight_classes(plan(checkpoint.architecture, request.recipe)),
        exact_context_length=context,
        notes=(
            *_notes(request),
            *window_notes(checkpoint.architecture, context),
            *tokenizer_notes(folder),
            *template_notes(checkpoint),
        ),
        digests={DATA_NAME: digest},
        tools={name: version(name) for name in ("onnx", "onnxruntime", "numpy", "numba")},
    )


def artifact_sizes(request: BuildRequest) -> dict[str, int]:
    """Return the exact bytes of every file that `convert` would write, by name. No weight is read.

    Raises:
        UnsupportedModelError: what `convert` refuses of an architecture.
    """
    graph, data = _planned(request)
    config = runtime_config(request.checkpoint, request.context_length)
    return {GRAPH_NAME: len(graph), DATA_NAME: data.bytes, CONFIG_NAME: len(config)}


def _planned(request: BuildRequest) -> tuple[bytes, DataFile]:
    """Write the graph, and promise every array that it points to."""
    architecture = request.checkpoint.architecture
    check(architecture, request.recipe)
    if cache_dtype(request.recipe) == "float16":
        require_range(request.checkpoint, attention_factors(architecture), np.float16)
    edge = architecture.longrope_edge(request.context_length)
    graph, data = Graph(), DataFile()
    positions = write_positions(graph, data, request)
    attention = Attention(graph, architecture, positions, CacheScales(graph, data, request))
    Decoder(graph, data, Weights(request, graph, data), architecture, attention).write()
    facts = {} if edge is None else {EDGE_FACT: str(edge)}
    return graph.to_bytes(architecture.name, facts), data


def _notes(request: BuildRequest) -> tuple[str, ...]:
    """Return what a reader of the manifest must know."""
    notes = [_recipe_note(request.recipe)]
    architecture = request.checkpoint.architecture
    edge = architecture.longrope_edge(request.context_length)
    if edge is not None and edge != GENAI_EDGES.get(architecture.family):
        notes.append(
            f"onnxruntime-genai does not read a sequence again when it grows past {edge} tokens while generating: what "
            "follows there mixes short and long rotary factors; a prompt longer than that is exact"
        )
    return tuple(notes)


def _recipe_note(recipe: Recipe) -> str:
    cache = f"the KV cache is {recipe.kv_cache or cache_dtype(recipe)}"
    if recipe.name == "onnx-fp16":
        return f"weights are float16, {cache}; a CPU runtime widens the weights to float32 when it loads them"
    return f"products round their input to 8 bits a block (MatMulNBits, accuracy level 4); {cache}"
