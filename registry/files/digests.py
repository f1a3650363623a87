"""Digests of bytes and files, written `sha256:<hex>`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from registry.files.large_file import read_pieces
from targets.errors import PhipackError

_CHUNK = 1 << 20


def digest_of_bytes(raw: bytes) -> str:
    """Return `sha256:<hex>` of the bytes."""
    return "sha256:" + hashlib.sha256(raw).hexdigest()


def digest_of_file(path: Path, *, past_cache: bool = False) -> str:
    """Return `sha256:<hex>` of the file's content, read in pieces; past the page cache if so asked."""
    if past_cache:
        hasher = hashlib.sha256()
        for piece in read_pieces(path):
            hasher.update(piece)
        return "sha256:" + hasher.hexdigest()
    with path.open("rb") as stream:
        return "sha256:" + hashlib.file_digest(stream, "sha256").hexdigest()


def copy_hashed(source: BinaryIO, out: BinaryIO, unreadable: Callable[[OSError], PhipackError]) -> tuple[int, str]:
    """Copy to the end; return the number of bytes and their `sha256:<hex>`. `unreadable` wraps the source's error."""
    hasher = hashlib.sha256()
    copied = 0
    while True:
        try:
            piece = source.read(_CHUNK)
        except OSError as error:
            raise unreadable(error) from error
        if not piece:
            return copied, "sha256:" + hasher.hexdigest()
        hasher.update(piece)
        out.write(piece)
        copied += len(piece)
