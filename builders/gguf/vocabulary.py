"""The vocabulary in a GGUF file: tokens, their types, scores or merges, one token for each row of the embedding.

`tokenizer.py` reads it from a checkpoint. Source: the GGUF specification (ggml/docs/gguf.md) and llama.cpp's
src/llama-vocab.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from builders.gguf.tokenizer_json import AddedToken
from targets.errors import CheckpointError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # enum llama_token_type; SentencePiece's too


@dataclass(frozen=True)
class Vocabulary:
    """The keys `tokenizer.ggml.*`. Every row of the embedding has a token; rows without one are padding.

    `model`: "gpt2" for byte-level BPE (which needs `merges`), "llama" for SentencePiece (which needs `scores`). `pre`:
    how text is split first, by llama.cpp's name. `notes`: where llama.cpp will differ from the checkpoint's tokenizer.
    """

    model: str
    pre: str
    tokens: tuple[str, ...]
    kinds: tuple[int, ...]
    scores: tuple[float, ...] | None = None
    merges: tuple[str, ...] = ()
    add_space_prefix: bool | None = None
    notes: tuple[str, ...] = ()

    def add_to(self, writer: Any) -> None:
        """Write the keys into a `gguf.GGUFWriter`."""
        writer.add_tokenizer_model(self.model)
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.kinds)
        if self.scores is not None:
            writer.add_token_scores(self.scores)
        if self.merges:
            writer.add_token_merges(self.merges)
        if self.add_space_prefix is not None:
            writer.add_add_space_prefix(self.add_space_prefix)


@dataclass(frozen=True)
class Row:
    """One token: its text, type and, for SentencePiece, score."""

    text: str
    kind: int = NORMAL
    score: float = 0.0


ADDED_SCORE, PAD_SCORE = (
    -1000.0,
    -10000.0,
)  # what llama.cpp's converter writes for added tokens, and for rows without one


def lay_out(rows: Mapping[int, Row], added: Mapping[int, AddedToken], size: int, *, source: str) -> list[Row]:
    """Return a token for each of `size` rows of the embedding: the model's, added ones over them, padding in the gaps.

    Raises:
        CheckpointError: an id is past the embedding, or two ids have the same token.
    """
    rows = dict(rows)
    for number, token in added.items():
        rows[number] = Row(token.content, CONTROL if token.special else USER_DEFINED, ADDED_SCORE)
    if wrong := sorted(number for number in rows if not 0 <= number < size):
        raise CheckpointError(
            f"{source}: the tokenizer's id {wrong[-1]} ({rows[wrong[-1]].text!r}) is not in the vocabulary of {size}",
            fix="the tokenizer and the weights belong to different models, or the embedding was not resized",
        )
    ids: dict[str, int] = {}
    for number, row in rows.items():
        if ids.setdefault(row.text, number) != number:
            raise CheckpointError(
                f"{source}: ids {ids[row.text]} and {number} are both {row.text!r}",
                fix="remove the one that is wrong from the added tokens, or download the tokenizer again",
            )
    return [rows.get(number) or Row(f"[PAD{number}]", UNUSED, PAD_SCORE) for number in range(size)]
