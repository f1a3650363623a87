"""Reads a file that others made, up to a limit: it may be larger than the memory, or never end."""

from __future__ import annotations

from pathlib import Path

_PIECE = 1 << 16


def read_at_most(path: Path, limit: int) -> bytes:
    """Return a file's bytes, at most `limit` and one more: a longer result says that the file is larger.

    Memory is taken as bytes come, whatever size the file states. Raises `OSError`.
    """
    content = bytearray()
    with path.open("rb", buffering=0) as stream:
        while len(content) <= limit and (piece := stream.read(min(_PIECE, limit + 1 - len(content)))):
            content += piece
    return bytes(content)
