"""The defects that the behaviour suite is tried on, one by one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from builders.coreml.description import EDGE_FACT as COREML_EDGE
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
    in_json,
    in_manifest,
    in_program,
    in_text,
    other_facts,
    other_rope,
    other_weights,
)

_QKV = "model.layers.0.self_attn.qkv_proj.weight"
_HEAD, _KEYS = 16, 64  # elements of a head; rows of the queries, after which those of the keys begin
_END = 312  # <|end|>
ENGINE_FILE = "tokenizer_config.json"  # where onnxruntime-genai reads the template, as a text


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
_NUMBERS: dict[str, tuple[str, Any]] = {
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


def _without(number: int) -> Callable[[Any], None]:
    def change(config: Any) -> None:
        config["model"]["eos_token_id"].remove(number)

    return change


def _with(**values: Any) -> Callable[[Any], None]:
    return lambda config: config.update(values)


def _with_model(**values: Any) -> Callable[[Any], None]:
    return lambda config: config["model"].update(values)


def _renamed_token(tokenizer: Any) -> None:
    for token in tokenizer["added_tokens"]:
        if token["id"] == _END:
            token["content"] = "<|End|>"
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["<|End|>"] = vocabulary.pop("<|end|>")


def _stripping_token(tokenizer: Any) -> None:
    for token in tokenizer["added_tokens"]:
        token["rstrip"] = True


def _with_bos(tokenizer: Any) -> None:
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [310], "tokens": ["<|endoftext|>"]}},
    }


_TURN = "<|{{ message['role'] }}|>\n{{ message['content'] }}<|end|>\n"
_TEMPLATES: dict[str, tuple[str, str]] = {
    "a newline added to the template": ("<|end|>\n", "<|end|>\n\n"),
    "the template trims contents": ("message['content']", "message['content'] | trim"),
    "the template drops the system message": (
        _TURN,
        "{% if message['role'] != 'system' %}" + _TURN + "{% endif %}",
    ),
    "the template has no prompt for an answer": ("{% if add_generation_prompt %}", "{% if false %}"),
    "the template puts BOS first": ("{% for", "{{ bos_token }}{% for"),
    "the template escapes contents": ("message['content']", "message['content'] | e"),
}


def _in_config_template(old: str, new: str) -> Callable[[Bundle], None]:
    def change(config: Any) -> None:
        assert old in config["chat_template"]
        config["chat_template"] = config["chat_template"].replace(old, new)

    return in_json(ENGINE_FILE, change)


def _in_both_templates(old: str, new: str) -> Callable[[Bundle], None]:
    """onnxruntime-genai reads the file where there is one, and tokenizer_config.json otherwise."""

    def change(bundle: Bundle) -> None:
        _in_config_template(old, new)(bundle)
        in_text("chat_template.jinja", old, new)(bundle)

    return change


def _in_gguf_template(old: str, new: str) -> Callable[[Bundle], None]:
    return in_gguf({"tokenizer.chat_template": lambda text: text.replace(old, new)})


def _token(number: int, text: Any) -> Callable[[list[Any]], list[Any]]:
    return lambda values: [*values[:number], text, *values[number + 1 :]]


def _edge_later(bundle: Bundle) -> Bundle:
    """Let the manifest promise one token more in the first context than the factors hold for."""
    first, *rest = bundle.manifest.model.exact_contexts
    contexts = [ExactContext(open_with=288, first=1, last=288)] if rest else [first]
    model = bundle.manifest.model.model_copy(update={"exact_contexts": contexts})
    return replace(bundle, manifest=bundle.manifest.model_copy(update={"model": model}))


def _exact_past_window(bundle: Bundle) -> Bundle:
    model = bundle.manifest.model.model_copy(update={"exact_context_length": bundle.manifest.model.context_length})
    return replace(bundle, manifest=bundle.manifest.model_copy(update={"model": model}))


def _graph_integer(name: str, change: Callable[[int], int]) -> Callable[[Any], None]:
    def edit(model: Any) -> None:
        import onnx

        (tensor,) = [one for one in model.graph.initializer if one.name == name]
        value = onnx.numpy_helper.to_array(tensor)
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.asarray(change(int(value)), value.dtype), name))

    return edit


def _graph_attribute(operator: str, name: str, value: float) -> Callable[[Any], None]:
    def edit(model: Any) -> None:
        import onnx

        found = [node for node in model.graph.node if node.op_type == operator]
        assert found
        for node in found[:1]:
            kept = [one for one in node.attribute if one.name != name]
            del node.attribute[:]
            node.attribute.extend([*kept, onnx.helper.make_attribute(name, value)])

    return edit


def _no_edge_in_graph(model: Any) -> None:
    kept = [one for one in model.metadata_props if one.key != ONNX_EDGE]
    assert len(kept) < len(model.metadata_props)
    del model.metadata_props[:]
    model.metadata_props.extend(kept)


def _no_edge_in_program(specification: Any) -> None:
    del specification.description.metadata.userDefined[COREML_EDGE]


def _program_integer(name: str, change: Callable[[int], int]) -> Callable[[Any], None]:
    """Change the integer that an operation compares with."""

    def edit(specification: Any) -> None:
        (function,) = specification.mlProgram.functions.values()
        operations = next(iter(function.block_specializations.values())).operations
        by_output = {output.name: one for one in operations for output in one.outputs}
        binding = by_output[name].inputs["y"].arguments[0]
        value = binding.value if binding.HasField("value") else by_output[binding.name].attributes["val"]
        numbers = value.immediateValue.tensor.ints.values
        numbers[0] = change(numbers[0])

    return edit


def _scales_of_neighbour(tensors: dict[str, Array]) -> Array:
    """Take the float16 scale of each Q4_0 block (2 bytes of 18) from the layer before."""
    mine, theirs = (tensors[f"blk.{layer}.ffn_up.weight"].copy() for layer in (1, 0))
    blocks = mine.reshape(*mine.shape[:-1], -1, 18)
    blocks[..., :2] = theirs.reshape(blocks.shape)[..., :2]
    return mine


MUTANTS: tuple[Mutant, ...] = (
    *(
        Mutant(name, "edges", _LONG[kind] if shape == "long" else shape, kind, plant)
        for name, (shape, plant) in _NUMBERS.items()
        for kind in FORMATS
    ),
    *(Mutant(name, "edges", "window", kind, plant) for name, plant in _WINDOWS.items() for kind in ("onnx", "coreml")),
    *(Mutant("half of each head rotated", "edges", "window", kind, other_facts(partial_rotary_dim=8)) for kind in ("gguf", "coreml")),
    Mutant("edge of the factors one earlier", "edges", "longrope", "onnx", edited(in_graph(_graph_integer("original_context", lambda edge: edge - 1)))),
    Mutant("edge of the factors one earlier", "edges", "longrope", "coreml", edited(in_program(_program_integer("is_long", lambda edge: edge - 1)))),
    Mutant("not read again past the edge", "edges", "longrope", "onnx", edited(in_graph(_no_edge_in_graph))),
    Mutant("not read again past the edge", "edges", "longrope", "coreml", edited(in_program(_no_edge_in_program))),
    Mutant("one context for both sides of the edge", "edges", "longrope at 256", "gguf", edited(_edge_later)),
    Mutant("promises exactness past the window", "edges", "window", "gguf", edited(_exact_past_window)),
    Mutant("one layer rotates by interleaved pairs", "edges", "window", "onnx", edited(in_graph(_graph_attribute("GroupQueryAttention", "rotary_interleaved", 1)))),
    Mutant("one layer's score scale", "edges", "window", "onnx", edited(in_graph(_graph_attribute("GroupQueryAttention", "scale", 0.2)))),
    Mutant("one layer's window in the graph", "edges", "window", "onnx", edited(in_graph(_graph_attribute("GroupQueryAttention", "local_window_size", 41)))),
    Mutant("a token sees the next one", "edges", "window", "coreml", edited(in_program(_program_integer("is_future", lambda least: least - 1)))),
    Mutant("rope theta in the file", "edges", "llama", "gguf", edited(in_gguf({"ARCH.rope.freq_base": 10000.0}))),
    Mutant("epsilon in the file", "edges", "llama", "gguf", edited(in_gguf({"ARCH.attention.layer_norm_rms_epsilon": 1e-6}))),
    Mutant("long factors of the short side in the file", "edges", "longrope at 256", "gguf", edited(in_gguf(tensors={"rope_factors_long.weight": lambda all_: all_["rope_factors_short.weight"]}))),
    Mutant("attention factor in the file", "edges", "longrope at 256", "gguf", edited(in_gguf({"ARCH.rope.scaling.attn_factor": 1.1}))),
    Mutant("one matrix's scales of the neighbouring layer", "edges", "window", "gguf", edited(in_gguf(tensors={"blk.1.ffn_up.weight": _scales_of_neighbour})), recipe="gguf-q4_0"),
    # Ids.
    *(Mutant("a stop id dropped in the manifest", "ids", "window", kind, edited(in_manifest(stop_token_ids=[310, 311]))) for kind in FORMATS),
    *(Mutant("BOS changed in the manifest", "ids", "window", kind, edited(in_manifest(bos_token_id=311))) for kind in FORMATS),
    *(Mutant("an added token's text changed", "ids", "window", kind, edited(in_json("tokenizer.json", _renamed_token))) for kind in FORMATS),
    *(Mutant("tokenizer.json puts BOS before a text", "ids", "window", kind, edited(in_json("tokenizer.json", _with_bos))) for kind in FORMATS),
    Mutant("a letter ends an answer in the manifest", "ids", "window", "coreml", edited(in_manifest(stop_token_ids=[0, 310, 311, 312]))),
    Mutant("a stop id dropped in genai_config.json", "ids", "window", "onnx", edited(in_json("genai_config.json", _without(_END)))),
    Mutant("a letter ends an answer in genai_config.json", "ids", "window", "onnx", edited(in_json("genai_config.json", _with_model(eos_token_id=[1, 310, 311, 312])))),
    Mutant("BOS changed in genai_config.json", "ids", "window", "onnx", edited(in_json("genai_config.json", _with_model(bos_token_id=313)))),
    Mutant("BOS flag flipped in tokenizer_config.json", "ids", "window", "onnx", edited(in_json(ENGINE_FILE, _with(add_bos_token=True)))),
    Mutant("BOS flag flipped in the file", "ids", "window", "gguf", edited(in_gguf({"tokenizer.ggml.add_bos_token": True}))),
    Mutant("BOS changed in the file", "ids", "window", "gguf", edited(in_gguf({"tokenizer.ggml.bos_token_id": 313}))),
    Mutant("EOS changed in the file", "ids", "window", "gguf", edited(in_gguf({"tokenizer.ggml.eot_token_id": 313, "tokenizer.ggml.eom_token_id": 313}))),
    Mutant("another end-of-generation id missing in the file", "ids", "window", "gguf", edited(in_gguf({"tokenizer.ggml.eom_token_id": ...}))),
    Mutant("an added token's text changed in the file", "ids", "window", "gguf", edited(in_gguf({"tokenizer.ggml.tokens": _token(313, "<|User|>")}))),
    Mutant("an added token is ordinary text in the file", "ids", "window", "gguf", edited(in_gguf({"tokenizer.ggml.token_type": _token(313, 1)}))),
    # Templates.
    *(Mutant(name, "template", "window", kind, edited(in_text("chat_template.jinja", *texts))) for name, texts in _TEMPLATES.items() for kind in FORMATS),
    *(Mutant(f"{name}, in the runtime's file", "template", "window", "gguf", edited(_in_gguf_template(*texts))) for name, texts in _TEMPLATES.items()),
    *(Mutant(f"{name}, in the runtime's files", "template", "window", "onnx", edited(_in_both_templates(*texts))) for name, texts in _TEMPLATES.items()),
    *(Mutant("added tokens swallow white space", "template", "window", kind, edited(in_json("tokenizer.json", _stripping_token))) for kind in FORMATS),
)  # fmt: skip
