"""Defects in numbers and lengths that the behaviour suite is tried on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from builders.coreml.interface import EDGE_FACT as COREML_EDGE
from builders.onnx import EDGE_FACT as ONNX_EDGE
from registry.bundle.folder import Bundle
from registry.bundle.manifest import ExactContext
from tests.support.mutants import (
    FORMATS,
    Array,
    Mutant,
    edited,
    in_gguf,
    in_graph,
    in_program,
    other_facts,
    other_rope,
    other_weights,
)

_QKV = "model.layers.0.self_attn.qkv_proj.weight"
_LONG_FACTORS = "rope_factors_long.weight"
_HEAD, _KEYS = 16, 64  # elements of a head; rows of the queries, after which those of the keys begin


def _swapped(name: str, one: int, other: int) -> Callable[[dict[str, Array]], None]:
    """Swap two heads' rows."""

    def change(weights: dict[str, Array]) -> None:
        rows, own = weights[name], slice(one, one + _HEAD)
        their = slice(other, other + _HEAD)
        rows[own], rows[their] = rows[their].copy(), rows[own].copy()

    return change


def _zeroed(name: str, row: int) -> Callable[[dict[str, Array]], None]:
    def change(weights: dict[str, Array]) -> None:
        weights[name][row] = 0

    return change


def _of_neighbour(part: str) -> Callable[[dict[str, Array]], None]:
    def change(weights: dict[str, Array]) -> None:
        weights[f"model.layers.1.{part}"] = weights[f"model.layers.0.{part}"]

    return change


def _layers_swapped(weights: dict[str, Array]) -> None:
    for name in [name for name in weights if name.startswith("model.layers.0.")]:
        other = name.replace("layers.0.", "layers.1.")
        weights[name], weights[other] = weights[other], weights[name]


def _halves_swapped(weights: dict[str, Array]) -> None:
    gate, up = np.split(weights["model.layers.0.mlp.gate_up_proj.weight"], 2)
    weights["model.layers.0.mlp.gate_up_proj.weight"] = np.concatenate([up, gate])


_LONG = {"gguf": "longrope at 256", "onnx": "longrope", "coreml": "longrope"}
_EVERYWHERE: dict[str, tuple[str, Any]] = {
    "two query heads swapped": ("window", other_weights(_swapped(_QKV, 0, _HEAD))),
    "two key heads swapped": ("window", other_weights(_swapped(_QKV, _KEYS, _KEYS + _HEAD))),
    "another rope theta": ("window", other_facts(rope_theta=10000.0)),
    "another epsilon": ("window", other_facts(norm_epsilon=1e-6)),
    "gate and up swapped": ("window", other_weights(_halves_swapped)),
    "layers swapped": ("window", other_weights(_layers_swapped)),
    "a norm of the neighbouring layer": ("window", other_weights(_of_neighbour("input_layernorm.weight"))),
    "head row of a special token zeroed": ("window", other_weights(_zeroed("lm_head.weight", 313))),
    "tied row of a special token zeroed": ("tied", other_weights(_zeroed("model.embed_tokens.weight", 314))),
    "embedding row of a special token zeroed": ("window", other_weights(_zeroed("model.embed_tokens.weight", 314))),
    "long factors frozen to the short ones": ("long", other_rope(long=lambda rope: rope.short)),
    "short factors frozen to the long ones": ("long", other_rope(short=lambda rope: rope.long)),
    "wrong attention factor": ("long", other_rope(short_attention_factor=1.05, long_attention_factor=1.05)),
}
_WINDOWS = {
    "window one longer": other_facts(sliding_window=41),
    "window one shorter": other_facts(sliding_window=39),
    "no window": other_facts(sliding_window=None),
}


def _edge_later(bundle: Bundle) -> Bundle:
    """Let the manifest promise one token more in the first context than the factors hold for."""
    first, *rest = bundle.manifest.model.exact_contexts
    contexts = [ExactContext(open_with=288, first=1, last=288)] if rest else [first]
    model = bundle.manifest.model.model_copy(update={"exact_contexts": contexts})
    return replace(bundle, manifest=bundle.manifest.model_copy(update={"model": model}))


def _exact_past_window(bundle: Bundle) -> Bundle:
    model = bundle.manifest.model.model_copy(update={"exact_context_length": bundle.manifest.model.context_length})
    return replace(bundle, manifest=bundle.manifest.model_copy(update={"model": model}))


def _graph_integer(name: str, added: int) -> Callable[[Any], None]:
    def edit(model: Any) -> None:
        import onnx

        (tensor,) = [one for one in model.graph.initializer if one.name == name]
        value = onnx.numpy_helper.to_array(tensor)
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.asarray(value + added, value.dtype), name))

    return edit


def _attribute(operator: str, name: str, value: float) -> Callable[[Any], None]:
    def edit(model: Any) -> None:
        import onnx

        found = [node for node in model.graph.node if node.op_type == operator]
        assert found
        for node in found[:1]:
            kept = [one for one in node.attribute if one.name != name]
            del node.attribute[:]
            node.attribute.extend([*kept, onnx.helper.make_attribute(name, value)])

    return edit


def _no_attribute(operator: str, name: str, layers: slice) -> Callable[[Any], None]:
    """Remove an attribute from some of the nodes of an operator."""

    def edit(model: Any) -> None:
        for node in [node for node in model.graph.node if node.op_type == operator][layers]:
            kept = [one for one in node.attribute if one.name != name]
            assert len(kept) < len(node.attribute)
            del node.attribute[:]
            node.attribute.extend(kept)

    return edit


def _no_edge_in_graph(model: Any) -> None:
    kept = [one for one in model.metadata_props if one.key != ONNX_EDGE]
    assert len(kept) < len(model.metadata_props)
    del model.metadata_props[:]
    model.metadata_props.extend(kept)


def _no_edge_in_program(specification: Any) -> None:
    del specification.description.metadata.userDefined[COREML_EDGE]


def _program_integer(name: str, added: int) -> Callable[[Any], None]:
    """Change the integer that an operation compares with."""

    def edit(specification: Any) -> None:
        (function,) = specification.mlProgram.functions.values()
        operations = next(iter(function.block_specializations.values())).operations
        by_output = {output.name: one for one in operations for output in one.outputs}
        binding = by_output[name].inputs["y"].arguments[0]
        value = binding.value if binding.HasField("value") else by_output[binding.name].attributes["val"]
        numbers = value.immediateValue.tensor.ints.values
        numbers[0] += added

    return edit


def _short(tensors: dict[str, Array]) -> Array:
    return tensors["rope_factors_short.weight"]


def _scales_of_neighbour(tensors: dict[str, Array]) -> Array:
    """Take the float16 scale of each Q4_0 block (2 bytes of 18) from the layer before."""
    mine, theirs = (tensors[f"blk.{layer}.ffn_up.weight"].copy() for layer in (1, 0))
    blocks = mine.reshape(*mine.shape[:-1], -1, 18)
    blocks[..., :2] = theirs.reshape(blocks.shape)[..., :2]
    return mine


_GQA = "GroupQueryAttention"
_IN_FILES: tuple[tuple[str, str, str, Callable[[Bundle], Bundle | None]], ...] = (  # name, shape, format, edit
    ("edge of the factors one earlier", "longrope", "onnx", in_graph(_graph_integer("original_context", -1))),
    ("edge of the factors one earlier", "longrope", "coreml", in_program(_program_integer("is_long", -1))),
    ("not read again past the edge", "longrope", "onnx", in_graph(_no_edge_in_graph)),
    ("not read again past the edge", "longrope", "coreml", in_program(_no_edge_in_program)),
    ("one context for both sides of the edge", "longrope at 256", "gguf", _edge_later),
    ("promises exactness past the window", "window", "gguf", _exact_past_window),
    ("one layer rotates other pairs", "window", "onnx", in_graph(_attribute(_GQA, "rotary_interleaved", 1))),
    ("one layer's score scale", "window", "onnx", in_graph(_attribute(_GQA, "scale", 0.2))),
    ("one layer's window in the graph", "window", "onnx", in_graph(_attribute(_GQA, "local_window_size", 41))),
    ("no window in the graph", "window", "onnx", in_graph(_no_attribute(_GQA, "local_window_size", slice(None)))),
    (
        "one layer has no window in the graph",
        "window",
        "onnx",
        in_graph(_no_attribute(_GQA, "local_window_size", slice(1))),
    ),
    ("a token sees the next one", "window", "coreml", in_program(_program_integer("is_future", -1))),
    ("rope theta in the file", "llama", "gguf", in_gguf({"ARCH.rope.freq_base": 10000.0})),
    ("epsilon in the file", "llama", "gguf", in_gguf({"ARCH.attention.layer_norm_rms_epsilon": 1e-6})),
    ("attention factor in the file", "longrope at 256", "gguf", in_gguf({"ARCH.rope.scaling.attn_factor": 1.1})),
    ("long factors of the short side in the file", "longrope at 256", "gguf", in_gguf(tensors={_LONG_FACTORS: _short})),
)
NUMBERS: tuple[Mutant, ...] = (
    *(
        Mutant(name, "edges", _LONG[kind] if shape == "long" else shape, kind, plant)
        for name, (shape, plant) in _EVERYWHERE.items()
        for kind in FORMATS
    ),
    *(Mutant(name, "edges", "window", kind, plant) for name, plant in _WINDOWS.items() for kind in ("onnx", "coreml")),
    *(
        Mutant("half of each head rotated", "edges", "window", kind, other_facts(partial_rotary_dim=8))
        for kind in ("gguf", "coreml")
    ),
    *(Mutant(name, "edges", shape, kind, edited(edit)) for name, shape, kind, edit in _IN_FILES),
    Mutant(
        "one matrix's scales of the neighbouring layer",
        "edges",
        "window",
        "gguf",
        edited(in_gguf(tensors={"blk.1.ffn_up.weight": _scales_of_neighbour})),
        recipe="gguf-q4_0",
    ),
)
