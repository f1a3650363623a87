"""Reads a file that others made, up to a limit: it may be larger than the memory, or never end."""

from __future__ import annotations

from pathlib import Path

_PIECE = 1 << 16


class TooLargeError(ValueError):
    """A file has more bytes than any of its kind. Its text says how many are read."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"it has more than {limit} bytes")


def read_at_most(path: Path, limit: int) -> bytes:
    """Return a file's bytes. Memory is taken as bytes come, whatever size the file states.

    Raises:
        TooLargeError: there are more than `limit`. OSError: it can't be read.
    """
    content = bytearray()
    with path.open("rb", buffering=0) as stream:
        while len(content) <= limit and (piece := stream.read(min(_PIECE, limit + 1 - len(content)))):
            content += piece
    if len(content) > limit:
        raise TooLargeError(limit)
    return bytes(content)
