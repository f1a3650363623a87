"""What a parser is to the fuzzer, and how most of them get their input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Parse = Callable[[bytes], object]


@dataclass(frozen=True)
class Target:
    """A parser: valid inputs, and what is done with an input. `inputs`: how many `CASES=all` tries."""

    corpus: tuple[bytes, ...]
    parse: Parse
    inputs: int = 250


def file(path: Path, read: Callable[[Path], object]) -> Parse:
    def parse(raw: bytes) -> object:
        path.write_bytes(raw)
        return read(path)

    return parse


def as_text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")
