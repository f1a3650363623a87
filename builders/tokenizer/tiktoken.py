"""`*.tiktoken` (lines of a base64 token and its rank, as Phi-3-small has it) → the `tokenizer.json` that does the same.

tiktoken merges the two neighbours whose joined bytes have the lowest rank, the leftmost first. The `tokenizers` library
uses a list of pairs. They agree when each token's pair is the one that tiktoken itself joins last to form it: the steps
inside a token are the same in any text, so no other pair ever forms it.
"""

from __future__ import annotations

import base64
import heapq
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from targets.bounded_file import TooLargeError, read_at_most
from targets.errors import CheckpointError, UnsupportedModelError

# cl100k's, as Llama-3's and Phi-4's tokenizer.json spell it: runtimes on phones recognise exactly this string.
# tiktoken's own spelling with possessive quantifiers matches the same.
_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
_KNOWN = "cl100k_base.tiktoken"
_RANK_COUNT = 100256
_BYTES_LIMIT = 64 << 20  # cl100k's has 1.7 MB

# What Phi-3-small's own code adds to cl100k (its tokenizer_config.json lists none): every row has a token.
_NAMED = {
    "<|dummy_id_2|>": 100256,
    "<|endoftext|>": 100257,
    "<|fim_prefix|>": 100258,
    "<|fim_middle|>": 100259,
    "<|fim_suffix|>": 100260,
    "<|system|>": 100261,
    "<|user|>": 100262,
    "<|assistant|>": 100263,
    "<|dummy_id_0|>": 100264,
    "<|dummy_id_1|>": 100265,
    "<|end|>": 100266,
    "<|endofprompt|>": 100276,
}
_DUMMIES = {f"<|dummy_id_{number}|>": 100264 + number for number in range(3, 12)}
_PADDING = {f"<|dummy_id_{number}|>": 100265 + number for number in range(12, 87)}
PHI3_SMALL_TOKENS: Mapping[str, int] = _NAMED | _DUMMIES | _PADDING


def tokenizer_json_of_ranks(path: Path, config: Mapping[str, Any]) -> bytes:
    """Return the bytes of a `tokenizer.json`, the same for the same input. `config`: of tokenizer_config.json.

    Raises:
        CheckpointError: a line is not a token and its rank, or ranks have gaps, or an added token has no content.
        UnsupportedModelError: ranks of another encoding: how it splits text is not known.
    """
    if path.name != _KNOWN:
        raise UnsupportedModelError(
            f"{path}: only {_KNOWN} is supported: a file of ranks doesn't say how text is split",
            fix="save the checkpoint's tokenizer as tokenizer.json in the same folder",
        )
    ranks = read_ranks(path)
    letters = _letters()
    spelled = {token: "".join(letters[byte] for byte in token) for token in ranks}
    pairs = (_last_pair(token, rank, ranks, path) for token, rank in ranks.items() if len(token) > 1)
    by_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": _PATTERN}, "behavior": "Isolated", "invert": False}
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(config, ranks, path),
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, by_bytes]},
        "post_processor": None,
        "decoder": {**by_bytes, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,
            "vocab": {spelled[token]: rank for token, rank in ranks.items()},
            "merges": [[spelled[left], spelled[right]] for left, right in pairs],
        },
    }
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def read_ranks(path: Path) -> dict[bytes, int]:
    """Read tokens with their ranks, which are their ids, in order. Raises `CheckpointError`."""
    ranks: dict[bytes, int] = {}
    line = b""
    try:
        raw = read_at_most(path, _BYTES_LIMIT)
        for line in raw.splitlines():
            if line.strip():
                token, rank = line.split()
                ranks[base64.b64decode(token, validate=True)] = int(rank)
    except OSError as error:
        raise CheckpointError(
            f"{path} can't be read: {error.strerror}", fix="check the disk and the file's permissions"
        ) from error
    except TooLargeError as error:
        raise CheckpointError(f"{path}: {error}", fix="download it again") from error
    except ValueError as error:
        raise CheckpointError(
            f"{path}: a line is not a base64 token and its rank: {line[:60]!r}", fix="download it again"
        ) from error
    if (missing := next((byte for byte in range(256) if bytes([byte]) not in ranks), None)) is not None:
        raise CheckpointError(f"{path}: byte 0x{missing:02x} has no rank", fix="download it again")
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise CheckpointError(f"{path}: its {len(ranks)} ranks are not 0 to {len(ranks) - 1}", fix="download it again")
    return dict(sorted(ranks.items(), key=lambda entry: entry[1]))


def spelled_ranks(path: Path) -> dict[str, int]:
    """Read tokens as byte-level BPE spells them, with their ids. Raises `CheckpointError`."""
    letters = _letters()
    return {"".join(letters[byte] for byte in token): rank for token, rank in read_ranks(path).items()}


def _last_pair(token: bytes, rank: int, ranks: dict[bytes, int], path: Path) -> tuple[bytes, bytes]:
    """Return the two parts that tiktoken joins last to form a token: what merges of lower rank leave of its bytes."""
    parts = joined(token, rank, ranks)
    if len(parts) != 2:
        shown = f"{token[:60]!r}{'…' if len(token) > 60 else ''}"
        raise CheckpointError(
            f"{path}: no merge of two parts forms the token of rank {rank} ({shown})", fix="download it again"
        )
    return parts[0], parts[1]


def joined(token: bytes, below: int, ranks: Mapping[bytes, int]) -> list[bytes]:
    """Join neighbours of the lowest rank, the leftmost first, until two parts are left or no pair ranks under `below`.

    Pairs wait in a heap, so that a token of N bytes takes N log N steps. `ends`: of the part that begins at a place, or
    0 where none does; `befores`: where the part before it begins.
    """
    ends, befores = list(range(1, len(token) + 1)), list(range(-1, len(token) - 1))
    waiting: list[tuple[int, int, int]] = []  # rank, where the left part begins, where the right one ends

    def pair(begin: int) -> None:
        middle = ends[begin]
        if middle < len(token) and (rank := ranks.get(token[begin : ends[middle]], below)) < below:
            heapq.heappush(waiting, (rank, begin, ends[middle]))

    for begin in range(len(token) - 1):
        pair(begin)
    count = len(token)
    while waiting and count > 2:
        _, begin, end = heapq.heappop(waiting)
        middle = ends[begin]
        if not begin < middle < end or ends[middle] != end:
            continue  # one of the two is part of another by now
        ends[begin], ends[middle] = end, 0
        count -= 1
        if end < len(token):
            befores[end] = begin
            pair(begin)
        if befores[begin] >= 0:
            pair(befores[begin])
    begins = [0]
    while ends[begins[-1]] < len(token):
        begins.append(ends[begins[-1]])
    return [token[begin : ends[begin]] for begin in begins]


def _added_tokens(config: Mapping[str, Any], ranks: dict[bytes, int], path: Path) -> list[dict[str, Any]]:
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    listed = config.get("added_tokens_decoder") or {}
    if not listed:
        known = PHI3_SMALL_TOKENS if len(ranks) == _RANK_COUNT else {}
        listed = {number: {"content": token, "special": True} for token, number in known.items()}
    try:
        added = [
            {"id": int(number), "content": str(token["content"]), **{flag: bool(token.get(flag)) for flag in flags}}
            for number, token in listed.items()
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path.parent}/tokenizer_config.json: added_tokens_decoder: {error!r}",
            fix="each entry needs a number as its key, and a content; download the file again",
        ) from error
    return sorted(added, key=lambda token: token["id"])


def _letters() -> list[str]:
    """Return the character of each byte in byte-level BPE: itself if it prints in Latin-1, else from U+0100."""
    printing = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printing else chr(next(others)) for byte in range(256)]
