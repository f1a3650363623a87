"""A checkpoint's or bundle's own tokenizer, read from its folder: one class for both, so that they can be compared."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builders.checkpoint import read_json
from builders.tokenizer.tiktoken import tiktoken_file, tokenizer_json_of_ranks
from targets.errors import CheckpointError

_CONVERTING = threading.Lock()  # transformers imports its parts on first use: one thread at a time


@dataclass(frozen=True)
class Tokenizer:
    """Text to ids and back. `add_special_tokens`: with those that the tokenizer puts around a text, such as BOS."""

    _inner: Any

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """Return the ids of a text; special tokens written out in it become their ids."""
        return list(self._inner.encode(text, add_special_tokens=add_special_tokens).ids)

    def decode(self, ids: list[int]) -> str:
        """Return the text of ids, special tokens left out."""
        return str(self._inner.decode(ids, skip_special_tokens=True))

    def vocabulary(self) -> dict[str, int]:
        """Return the id of every token, added ones too."""
        return dict(self._inner.get_vocab(with_added_tokens=True))

    def to_json(self) -> bytes:
        """Return the bytes of a `tokenizer.json`."""
        return str(self._inner.to_str(pretty=False)).encode()


def load_tokenizer(folder: Path) -> Tokenizer:
    """Read `tokenizer.json`; where there is none, convert `tokenizer.model` (SentencePiece) or `cl100k_base.tiktoken`.

    Raises:
        CheckpointError: none is there, or it can't be read.
        UnsupportedModelError: a file of ranks whose encoding is not known.
    """
    path = folder / "tokenizer.json"
    if path.is_file():
        return _of_json(path, path.read_bytes())
    if (folder / "tokenizer.model").is_file():
        return _of_sentencepiece(folder)
    ranks = tiktoken_file(folder)
    if ranks is None:
        raise CheckpointError(
            f"{folder}: no tokenizer.json, tokenizer.model or *.tiktoken",
            fix="copy the tokenizer's files into the folder, from the model's repository",
        )
    return _of_json(ranks, tokenizer_json_of_ranks(ranks, read_json(folder / "tokenizer_config.json", required=False)))


def _of_json(path: Path, content: bytes) -> Tokenizer:
    import tokenizers

    # The library raises Exception itself: there is no narrower class to catch.
    try:
        return Tokenizer(tokenizers.Tokenizer.from_str(content.decode()))
    except Exception as error:
        raise CheckpointError(
            f"{path}: not a tokenizer: {error}", fix="download it again from the model's repository"
        ) from error


def _of_sentencepiece(folder: Path) -> Tokenizer:
    with _CONVERTING:
        import transformers

        # `legacy`: a space before each stretch of text between special tokens, as SentencePiece itself puts it and as
        # the tokenizer.json of Phi-3 and Llama-2 has it, whose tokenizer_config.json says otherwise.
        # Without `trust_remote_code`, transformers asks on standard input whether to run a tokenizer class that the
        # checkpoint brings.
        try:
            converted = transformers.AutoTokenizer.from_pretrained(
                folder, use_fast=True, legacy=True, trust_remote_code=False
            )
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{folder / 'tokenizer.model'}: not a tokenizer that can be read without running code from the"
                f" checkpoint: {error}",
                fix="if you trust it, write a tokenizer.json with transformers: tokenizer.save_pretrained(...)",
            ) from error
    # Read again as a file: the object in memory still treats </s> as special, whatever the configuration says.
    return _of_json(folder / "tokenizer.model", converted.backend_tokenizer.to_str().encode())
