"""Text to ids as tiktoken does it with cl100k's ranks, written plainly: for Phi-3-small, whose tokenizer is code.

Split by the encoding's pattern; in each piece, join the two neighbours whose joined bytes have the lowest rank, the
leftmost first, until none has one. Source of pattern and rule: tiktoken (`openai_public.py`, `_educational.py`).
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from targets.strict_json import parse_json

_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# What the class in Phi-3-small's repositories adds, where tokenizer_config.json lists nothing.
_SPECIAL = {
    "<|endoftext|>": 100257,
    "<|fim_prefix|>": 100258,
    "<|fim_middle|>": 100259,
    "<|fim_suffix|>": 100260,
    "<|system|>": 100261,
    "<|user|>": 100262,
    "<|assistant|>": 100263,
    "<|end|>": 100266,
    "<|endofprompt|>": 100276,
    "<|dummy_id_0|>": 100264,
    "<|dummy_id_1|>": 100265,
    "<|dummy_id_2|>": 100256,
    **{f"<|dummy_id_{number}|>": 100264 + number for number in range(3, 12)},
    **{f"<|dummy_id_{number}|>": 100265 + number for number in range(12, 87)},
}


def ranks_file(folder: Path) -> Path | None:
    """Return a folder's file of ranks, if it has one."""
    return next(iter(sorted(folder.glob("*.tiktoken"))), None)


@dataclass(frozen=True)
class RankSplitter:
    """`ranks`: of tokens, by their bytes. `special`: tokens that are never split."""

    ranks: dict[bytes, int]
    special: dict[str, int]

    @classmethod
    def read(cls, path: Path) -> RankSplitter:
        """Read the file, and the special tokens of the config next to it."""
        lines = (line.split() for line in path.read_bytes().splitlines() if line.strip())
        ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
        config_path = path.parent / "tokenizer_config.json"
        config: dict[str, Any] = parse_json(config_path.read_bytes(), ours=False) if config_path.is_file() else {}
        listed = config.get("added_tokens_decoder") or {}
        special = {entry["content"]: int(number) for number, entry in listed.items()} or _SPECIAL
        return cls(ranks, special)

    def ids(self, text: str) -> list[int]:
        """Return the ids of a text."""
        import regex

        tokens = "|".join(regex.escape(token) for token in sorted(self.special, key=len, reverse=True))
        found = []
        for part in regex.split(f"({tokens})", text):
            if part in self.special:
                found.append(self.special[part])
            else:
                for piece in regex.findall(_PATTERN, part):
                    found += self._joined(piece.encode())
        return found

    def text(self, ids: list[int]) -> str:
        """Return the text of ids, special tokens left out."""
        return b"".join(self._tokens.get(number, b"") for number in ids).decode("utf-8", "replace")

    @cached_property
    def _tokens(self) -> dict[int, bytes]:
        return {rank: token for token, rank in self.ranks.items()}

    def _joined(self, piece: bytes) -> list[int]:
        parts = [piece[place : place + 1] for place in range(len(piece))]
        while True:
            ranked = [self.ranks.get(parts[place] + parts[place + 1]) for place in range(len(parts) - 1)]
            known = [rank for rank in ranked if rank is not None]
            if not known:
                return [self.ranks[part] for part in parts]
            place = ranked.index(min(known))
            parts[place : place + 2] = [parts[place] + parts[place + 1]]
