"""Tokenizer files that transformers passes over, because another file says the same: noted where they say otherwise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from builders.checkpoint import Checkpoint, read_json
from builders.tokenizer.loading import Tokenizer
from builders.tokenizer.tiktoken import spelled_ranks
from targets.strict_json import parse_json


def notes_on_unread_files(checkpoint: Checkpoint, tokenizer: Tokenizer) -> tuple[str, ...]:
    """Return a note for each file that contradicts what transformers loads. Such a file is in no bundle."""
    folder, vocabulary = checkpoint.tokenizer_folder, tokenizer.vocabulary()
    notes = []
    if (folder / "tokenizer.json").is_file():
        readers: dict[str, Callable[[Path], Mapping[str, int]]] = {
            "tokenizer.model": _pieces,
            "vocab.json": _vocabulary,
            "added_tokens.json": _vocabulary,
        }
        readers |= {path.name: spelled_ranks for path in folder.glob("*.tiktoken")}
        for name, read in readers.items():
            if (path := folder / name).is_file() and (wrong := _first_other(read(path), vocabulary)):
                notes.append(f"{name} {wrong} in tokenizer.json, which transformers reads instead")
    template = read_json(folder / "chat_template.json", required=False).get("chat_template")
    if template is not None and template != checkpoint.chat_template:
        notes.append("chat_template.json has another chat template than the one that transformers' tokenizer reads")
    return tuple(notes)


def _first_other(listed: Mapping[str, int], vocabulary: Mapping[str, int]) -> str | None:
    for token, number in listed.items():
        if vocabulary.get(token) != number:
            return f"says that {token!r} is id {number}, it is {vocabulary.get(token)}"
    return None


def _pieces(path: Path) -> Mapping[str, int]:
    """Return the pieces of a SentencePiece model with their ids; none where it can't be read: then nobody reads it."""
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2

    schema: Any = sentencepiece_model_pb2
    model = schema.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError:
        return {}
    return {piece.piece: number for number, piece in enumerate(model.pieces)}


def _vocabulary(path: Path) -> Mapping[str, int]:
    try:
        content = parse_json(path.read_bytes(), ours=False)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
