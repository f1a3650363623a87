"""Files and bundles whose chunks have known borders."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from pathlib import Path

from devtools.bundles import make_bundle
from registry.bundle.chunks import ChunkHasher
from registry.bundle.folder import Bundle, seal
from registry.bundle.manifest import FileEntry


def entry_of(pieces: list[bytes], path: str = "weights") -> FileEntry:
    """An entry with a border after each piece."""
    hasher = ChunkHasher()
    for piece in pieces:
        hasher.update(piece)
        hasher.end()
    content = b"".join(pieces)
    return FileEntry(path=path, bytes=len(content), sha256=hashlib.sha256(content).hexdigest(), chunks=hasher.chunks())


_random = random.Random(7)


Pieces = Sequence[bytes]


def bundle_of(folder: Path, files: dict[str, Pieces]) -> Bundle:
    """A bundle of files whose chunks are these pieces."""
    bundle = make_bundle(folder, {path: b"".join(pieces) for path, pieces in files.items()})
    entries = [entry_of([piece for piece in files[file.path] if piece], file.path) for file in bundle.manifest.files]
    return seal(folder, bundle.manifest.model_copy(update={"files": entries}))


def nudged(content: bytes, every: int = 20) -> bytes:
    """Some bytes moved by one."""
    return bytes((byte + (_random.random() < 1 / every)) & 255 for byte in content)


TENSORS = [_random.randbytes(size) for size in (30_000, 500, 30_000, 500, 8000, 30_000)]
