"""What transformers has in memory → the one `tokenizer.json` that runtimes read.

That is the checkpoint's own file where it says the same.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_SPACE = "\u2581"
_REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
_PREPEND = {"type": "Prepend", "prepend": _SPACE}
_DOUBLED = {"type": "Replace", "pattern": {"Regex": "\\A\u2581"}, "content": _SPACE * 2}
_METASPACE = {"type": "Metaspace", "replacement": _SPACE, "prepend_scheme": "always", "split": False}


def canonical_json(backend: Any, file: Path) -> bytes:
    """Return the bytes of a `tokenizer.json` that does what a `tokenizers.Tokenizer` in memory does.

    Truncation and padding are left out: transformers resets both for each text. `file`: the checkpoint's own
    tokenizer.json, if it exists; its bytes are returned where they already say the same.
    """
    content = json.loads(backend.to_str()) | {"truncation": None, "padding": None}
    _flag_special_tokens(content, backend)
    _spell_spaces(content)
    if file.is_file() and _same_as_file(content, backend, file):
        return file.read_bytes()
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def _same_as_file(content: dict[str, Any], backend: Any, file: Path) -> bool:
    """Return whether a file, read by the tokenizers library alone, is the same tokenizer."""
    read = type(backend).from_file(str(file))
    if read.truncation is not None or read.padding is not None:
        return False
    in_file = json.loads(read.to_str())
    for each in (content, in_file):
        if _is_empty(each["post_processor"]):
            each["post_processor"] = None
    return in_file == content


def _is_empty(processor: Any) -> bool:
    """Return whether a post-processor adds nothing: transformers puts such a one where there is none."""
    only = [{"Sequence": {"id": "A", "type_id": 0}}]
    return processor is not None and processor["type"] == "TemplateProcessing" and processor["single"] == only


def _flag_special_tokens(content: dict[str, Any], backend: Any) -> None:
    """Set `special` where decoding leaves a token out: in memory it may be special without the flag."""
    for token in content["added_tokens"]:
        kept, left = (backend.decode([token["id"]], skip_special_tokens=skip) for skip in (False, True))
        token["special"] = token["special"] or kept != left


def _spell_spaces(content: dict[str, Any]) -> None:
    r"""Replace transformers' spelling of SentencePiece's spaces by the one that Phi-3's own file has.

    Replace " " → "▁", Replace \A▁ → ▁▁, Metaspace(always)  =  Prepend "▁", Replace " " → "▁"
    Replace " " → "▁", Metaspace                             =  Metaspace, which replaces them itself

    onnxruntime-extensions and swift-transformers know the Regex or the Metaspace only in part.
    """
    before = content["pre_tokenizer"]
    steps = before["pretokenizers"] if before and before["type"] == "Sequence" else [before]
    normalizer = content["normalizer"] or {}
    match normalizer.get("normalizers", [normalizer]), steps:
        case [first, second], [step] if (first, second, step) == (_REPLACE, _DOUBLED, _METASPACE):
            content["normalizer"] = {"type": "Sequence", "normalizers": [_PREPEND, _REPLACE]}
            content["pre_tokenizer"] = None
        case [first], [{"type": "Metaspace", "replacement": "\u2581"} as step] if first == _REPLACE:
            content["normalizer"] = None
            content["pre_tokenizer"] = step
