"""A checkpoint's or bundle's own tokenizer, read from its folder: one class for both, so that they can be compared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from targets.errors import CheckpointError


@dataclass(frozen=True)
class Tokenizer:
    """Text to ids and back. `add_special_tokens`: what the tokenizer itself puts before and after, such as BOS."""

    _inner: Any

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """Give the ids of a text; special tokens written out in it become their ids."""
        return list(self._inner.encode(text, add_special_tokens=add_special_tokens).ids)

    def decode(self, ids: list[int]) -> str:
        """Give the text of ids, special tokens left out."""
        return str(self._inner.decode(ids, skip_special_tokens=True))


def load_tokenizer(folder: Path) -> Tokenizer:
    """Read `tokenizer.json`, or convert `tokenizer.model` (SentencePiece) where there is none.

    Raises:
        CheckpointError: neither is there, or it can't be read.
    """
    path = folder / "tokenizer.json"
    if path.is_file():
        import tokenizers

        # The library raises Exception itself: there is no narrower class to catch.
        try:
            return Tokenizer(tokenizers.Tokenizer.from_file(str(path)))
        except Exception as error:
            raise CheckpointError(f"{path}: not a tokenizer: {error}") from error
    if not (folder / "tokenizer.model").is_file():
        raise CheckpointError(f"{folder}: no tokenizer.json and no tokenizer.model")
    import transformers

    try:
        converted = transformers.AutoTokenizer.from_pretrained(folder, use_fast=True)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / 'tokenizer.model'}: not a tokenizer: {error}") from error
    return Tokenizer(converted.backend_tokenizer)
