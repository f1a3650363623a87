"""Defects in ids and templates that the behaviour suite is tried on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from registry.bundle.folder import Bundle
from tests.support.mutants import FORMATS, Mutant, edited, in_gguf, in_json, in_manifest, in_text

_END = 312  # <|end|>
ENGINE_FILE = "tokenizer_config.json"  # where onnxruntime-genai reads the template, as a text
_GENAI = "genai_config.json"


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


_EVERYWHERE: dict[str, Callable[[Bundle], Bundle | None]] = {
    "a stop id dropped in the manifest": in_manifest(stop_token_ids=[310, 311]),
    "a letter ends an answer in the manifest": in_manifest(stop_token_ids=[0, 310, 311, 312]),
    "BOS changed in the manifest": in_manifest(bos_token_id=311),
    "an added token's text changed": in_json("tokenizer.json", _renamed_token),
    "tokenizer.json puts BOS before a text": in_json("tokenizer.json", _with_bos),
}
_IN_FILES: tuple[tuple[str, str, Callable[[Bundle], Bundle | None]], ...] = (  # name, format, edit
    ("a stop id dropped in genai_config.json", "onnx", in_json(_GENAI, _without(_END))),
    (
        "a letter ends it in genai_config.json",
        "onnx",
        in_json(_GENAI, _with_model(eos_token_id=[1, 310, 311, 312])),
    ),
    ("BOS changed in genai_config.json", "onnx", in_json(_GENAI, _with_model(bos_token_id=313))),
    ("BOS flag flipped in tokenizer_config.json", "onnx", in_json(ENGINE_FILE, _with(add_bos_token=True))),
    ("BOS flag flipped in the file", "gguf", in_gguf({"tokenizer.ggml.add_bos_token": True})),
    ("BOS changed in the file", "gguf", in_gguf({"tokenizer.ggml.bos_token_id": 313})),
    ("the end of a message changed in the file", "gguf", in_gguf({"tokenizer.ggml.eom_token_id": 313})),
    ("an end-of-generation id missing in the file", "gguf", in_gguf({"tokenizer.ggml.eom_token_id": ...})),
    ("an added token's text changed in the file", "gguf", in_gguf({"tokenizer.ggml.tokens": _token(313, "<|User|>")})),
    ("an added token is ordinary in the file", "gguf", in_gguf({"tokenizer.ggml.token_type": _token(313, 1)})),
)
IDS: tuple[Mutant, ...] = (
    *(Mutant(name, "ids", "window", kind, edited(edit)) for name, edit in _EVERYWHERE.items() for kind in FORMATS),
    *(Mutant(name, "ids", "window", kind, edited(edit)) for name, kind, edit in _IN_FILES),
)
TEMPLATES: tuple[Mutant, ...] = (
    *(
        Mutant(name, "template", "window", kind, edited(in_text("chat_template.jinja", *texts)))
        for name, texts in _TEMPLATES.items()
        for kind in FORMATS
    ),
    *(
        Mutant(f"{name}, in the runtime's files", "template", "window", kind, edited(edit(*texts)))
        for name, texts in _TEMPLATES.items()
        for kind, edit in (("gguf", _in_gguf_template), ("onnx", _in_both_templates))
    ),
    *(
        Mutant("added tokens swallow white space", "template", "window", kind, edit)
        for kind in FORMATS
        for edit in [edited(in_json("tokenizer.json", _stripping_token))]
    ),
)
