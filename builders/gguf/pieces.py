"""SentencePiece BPE (Llama's and Phi-3's kind) as llama.cpp reads it: pieces with scores, the best pair merged first.

Read from a `tokenizer.json` of BPE with byte fallback, whose order of merges is the scores.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from builders.gguf.tokenizer_json import TokenizerJson, steps
from builders.gguf.vocabulary import BYTE, UNKNOWN, Row, Vocabulary
from targets.errors import UnsupportedModelError

_SPACE = "\u2581"
_FIX = "build an ONNX or Core ML recipe, such as onnx-int4: their apps use the tokenizer's own files"
_BYTES = frozenset(f"<0x{number:02X}>" for number in range(256))
_UNREACHABLE = -1e9  # of a piece that no merge forms: llama.cpp would form it, so it comes after all others


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


def space_of_json(file: TokenizerJson, *, starts_with_token: bool, source: str) -> tuple[bool, tuple[str, ...]]:
    """Return whether llama.cpp must put a space before a text, and notes on where that is not what the tokenizer does.

    It puts one at the start and after each special token, or nowhere. `starts_with_token`: whether chats start with an
    added token, so that a tokenizer with a space only at the start of a text never puts one into a chat.

    Raises:
        UnsupportedModelError: text is normalized or split in a way that llama.cpp's "llama" tokenizer does not know.
    """
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    prepend = {"type": "Prepend", "prepend": _SPACE}
    match steps(file.normalizer, "normalizers"), file.pre_tokenizer:
        case [first, second], None if (first, second) == (prepend, replace):
            return True, ()
        case [only], None if only == replace:
            return False, ()
        case [], {"type": "Metaspace", "replacement": "\u2581", "split": False, "prepend_scheme": str(scheme)}:
            if scheme == "never":
                return False, ()
            if scheme == "first" and starts_with_token:
                note = "llama.cpp puts no space before a text, tokenizer.json does, at its start"
                return False, (f"{note}: chats have the same ids; tokenize other texts with tokenizer.json",)
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
