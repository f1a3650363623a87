"""Damaged copies of valid inputs. A seed and a number name an input for ever: `random` promises the same sequence."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from typing import Any

LENGTH_LIMIT = 1 << 16
# What has broken parsers: numbers that a conversion refuses, nesting, halves of letters, lengths beyond the file.
_NUMBERS = ("0", "-1", "²", "٣", "1e999", "-1e999", "NaN", "1.5", "0x10", str(1 << 63), "9" * 30, "1" * 400, "1" * 5000)
_TEXTS = (
    *(
        "",
        "\0",
        "\u202e",
        "\ud7ff",
        "/",
        "..",
        "../x",
        "s" * 300,
        "a" * 5000,
        "\\ud800",
        "\\u0000",
        "null",
        "true",
        "[]",
    ),
    *("[" * 1500, "[" * 150 + "]" * 150, '{"a":' * 150 + "1" + "}" * 150, '"', "'", "\\", "\n", "\r", "#", "=", "%"),
    *(
        "Mon, 01 Jan 2024 00:00:00 +99999999999999999999",
        "https://[::1",
        "file://",
        "sqlite:///",
        "s3://",
        "@",
        ":",
        "?",
    ),
)
_BYTES = (b"\xff", b"\xfe\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\x80" * 12, b"\x1f\x8b", bytes(64))
_WORDS = tuple(
    (number % (1 << 8 * size)).to_bytes(size, "little")
    for number in (0, 1, -1, 1 << 31, 1 << 40, 1_500_000_000, (1 << 63) - 1, 1 << 63)
    for size in (4, 8)
)
_TOKENS = (*(text.encode() for text in (*_NUMBERS, *_TEXTS)), *_BYTES, *_WORDS)
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1.5, "", "x", "²", [], {}, [[]], {"": None}, ["a", 1], 1 << 40, (1 << 63) - 1, 1 << 63),
    *(10**39, 10**399, "s" * 300, "\0", "../x", "a/b", "1" * 5000, [0] * 100, {"type": "x"}, "sha256:" + "0" * 64),
)
_DIGITS = re.compile(rb"[0-9]+")


def mutated(corpus: Sequence[bytes], seed: str, number: int) -> bytes:
    """Return input `number` of a seed."""
    chance = random.Random(f"{seed}:{number}")
    raw = chance.choice(corpus)
    if chance.random() < 0.5 and (content := _as_json(raw)) is not None:
        for _ in range(chance.choice((1, 1, 2, 4))):
            content = _changed(content, chance)
        raw = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
        if chance.random() < 0.8:
            return raw[:LENGTH_LIMIT]
    for _ in range(chance.choice((1, 1, 2, 3, 8))):
        raw = _damaged(raw, corpus, chance)
    return raw[:LENGTH_LIMIT]


def _damaged(raw: bytes, corpus: Sequence[bytes], chance: random.Random) -> bytes:
    at = chance.randint(0, len(raw))
    end = min(len(raw), at + chance.choice((1, 2, 4, 8, 30, 300)))
    match chance.randrange(8):
        case 0:
            return raw[:at] + bytes([chance.randrange(256)]) + raw[at + 1 :]
        case 1:
            return raw[:at] + raw[end:]
        case 2:
            return raw[:at] + raw[at:end] * chance.choice((2, 3, 100, 2000)) + raw[end:]
        case 3:
            return raw[:at] + chance.choice(_TOKENS) + raw[at:]
        case 4:
            token = chance.choice(_TOKENS)
            return raw[:at] + token + raw[at + len(token) :]
        case 5:
            found = list(_DIGITS.finditer(raw))
            place = chance.choice(found).span() if found else (at, end)
            return raw[: place[0]] + chance.choice(_NUMBERS).encode() + raw[place[1] :]
        case 6:
            other = chance.choice(corpus)
            return raw[:at] + other[chance.randint(0, len(other)) :]
        case _:
            return raw[:at]


def _as_json(raw: bytes) -> Any:
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict | list) and content else None


def _changed(content: Any, chance: random.Random) -> Any:
    """Replace, remove or repeat one value somewhere in a JSON value."""
    if not isinstance(content, dict | list) or not content or chance.random() < 0.15:
        return chance.choice(_VALUES)
    key = chance.choice(list(content)) if isinstance(content, dict) else chance.randrange(len(content))
    copy: Any = dict(content) if isinstance(content, dict) else list(content)
    match chance.randrange(10):
        case 0:
            del copy[key]
        case 1 if isinstance(copy, list):
            copy[key:key] = [copy[key]] * chance.choice((1, 10, 1000))
        case 1:
            copy[chance.choice(("", "x", "type", "\0", "²", "1" * 100))] = copy[key]
        case _:
            copy[key] = _changed(copy[key], chance)
    return copy
