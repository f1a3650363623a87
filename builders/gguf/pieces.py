"""SentencePiece BPE (Llama's and Phi-3's kind) as llama.cpp reads it: pieces with scores, the best pair merged first.

Read from `tokenizer.model`, or from a `tokenizer.json` of BPE with byte fallback, whose order of merges is the scores.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from builders.gguf.tokenizer_json import TokenizerJson, steps
from builders.gguf.vocabulary import BYTE, UNKNOWN, Row, Vocabulary
from targets.errors import CheckpointError, UnsupportedModelError

_SPACE = "\u2581"
_FIX = "build an ONNX or Core ML recipe, such as onnx-int4: their apps use the tokenizer's own files"
_DAMAGED_FIX = "download it again from the model's repository"
_BYTES = frozenset(f"<0x{number:02X}>" for number in range(256))
_UNREACHABLE = -1e9  # of a piece that no merge forms: llama.cpp would form it, so it comes after all others


def pieces_of_model(path: Path) -> tuple[dict[int, Row], bool]:
    """Read `tokenizer.model`. Returns its pieces by id, and whether it puts a space before a text.

    Raises:
        CheckpointError: not a SentencePiece model.
        UnsupportedModelError: unigram, or with a normalizer: llama.cpp's "llama" tokenizer does neither.
    """
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2

    schema: Any = sentencepiece_model_pb2
    model = schema.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except (OSError, DecodeError) as error:
        raise CheckpointError(f"{path}: not a SentencePiece model: {error}", fix=_DAMAGED_FIX) from error
    if not model.pieces:
        raise CheckpointError(f"{path}: not a SentencePiece model: no pieces", fix=_DAMAGED_FIX)
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    if (
        trainer.model_type != schema.TrainerSpec.BPE
        or trainer.treat_whitespace_as_suffix
        or normalizer.precompiled_charsmap
        or normalizer.remove_extra_whitespaces
        or not normalizer.escape_whitespaces
    ):
        raise UnsupportedModelError(
            f"{path}: llama.cpp runs SentencePiece's BPE without normalization; this model is unigram or normalizes",
            fix=_FIX,
        )
    rows = {number: Row(piece.piece, piece.type, piece.score) for number, piece in enumerate(model.pieces)}
    return rows, bool(normalizer.add_dummy_prefix)


def pieces_of_json(file: TokenizerJson) -> dict[int, Row]:
    """Return the pieces of a `tokenizer.json` by id. A score is minus the rank of the first merge that forms it."""
    ranks: dict[str, int] = {}
    for rank, (left, right) in enumerate(file.model.pairs, start=1):
        ranks.setdefault(left + right, rank)
    rows = {}
    for token, number in file.model.vocab.items():
        if token in _BYTES:
            rows[number] = Row(token, BYTE)
        elif token == file.model.unk_token:
            rows[number] = Row(token, UNKNOWN)
        else:
            unmerged = 0.0 if len(token) == 1 else _UNREACHABLE
            rows[number] = Row(token, score=-float(ranks[token]) if token in ranks else unmerged)
    return rows


def space_of_json(file: TokenizerJson, *, source: str) -> tuple[bool, tuple[str, ...]]:
    """Return whether the tokenizer puts a space before a text, and notes on where only llama.cpp does.

    Raises:
        UnsupportedModelError: text is normalized or split in a way that llama.cpp's "llama" tokenizer does not know.
    """
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    prepend = {"type": "Prepend", "prepend": _SPACE}
    another = {"type": "Replace", "pattern": {"Regex": rf"\A{_SPACE}"}, "content": 2 * _SPACE}
    always = {"type": "Metaspace", "replacement": _SPACE, "prepend_scheme": "always", "split": False}
    match steps(file.normalizer, "normalizers"), file.pre_tokenizer:
        case [first, second], None if (first, second) == (prepend, replace):
            return True, ()
        case [first, second], found if (first, second) == (replace, another) and steps(found, "pretokenizers") == [
            always
        ]:
            return True, ()  # how transformers 5 writes it: `always` skips a text that starts with a space
        case [only], None if only == replace:
            return False, ()
        case [], {"type": "Metaspace", "replacement": "\u2581", "split": False, "prepend_scheme": str(scheme)}:
            if scheme == "never":
                return False, ()
            where = "at the start of a text" if scheme == "first" else "where there is none"
            note = f"llama.cpp puts a space before each text and after each special token, tokenizer.json only {where}"
            return True, (f"{note}: tokenize with tokenizer.json",)
    raise UnsupportedModelError(
        f"{source}: llama.cpp's SentencePiece tokenizer has no normalizer or pre-tokenizer like "
        f"{json.dumps([file.normalizer, file.pre_tokenizer])[:300]}",
        fix=_FIX,
    )


def pieces_vocabulary(rows: Sequence[Row], space: bool, notes: tuple[str, ...], *, source: str) -> Vocabulary:
    """Return the vocabulary of laid-out rows. `space`: whether the tokenizer puts one before a text.

    Raises:
        UnsupportedModelError: a byte has no token.
    """
    if missing := sorted(_BYTES - {row.text for row in rows}):
        raise UnsupportedModelError(
            f"{source}: no token {missing[0]}: llama.cpp spells characters that have no token in bytes", fix=_FIX
        )
    return Vocabulary(
        model="llama",
        pre="default",
        tokens=tuple(row.text for row in rows),
        kinds=tuple(row.kind for row in rows),
        scores=tuple(row.score for row in rows),
        add_space_prefix=space,
        notes=notes,
    )
