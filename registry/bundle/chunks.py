"""Chunks: a large file's consecutive pieces. A fetch downloads the changed ones, and continues where it stopped.

A chunk is named by its content, so its bytes are found again at any offset of any file. Builders set a border at each
tensor: its content may stay the same while what is before it grows. No chunk is longer than `CHUNK_BYTES_LIMIT`; a
longer tensor is cut at multiples of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_serializer, model_validator

CHUNK_BYTES_LIMIT = 8 << 20  # what a fetch holds in memory for each request
_PIECE = 1 << 20


class Chunk(BaseModel):
    """Bytes of a file. In JSON a short string, since a manifest may have hundreds: `65536 ab34…`, size and SHA-256."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bytes: int = Field(gt=0, le=CHUNK_BYTES_LIMIT)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")

    @model_validator(mode="before")
    @classmethod
    def _read(cls, written: object) -> object:
        if not isinstance(written, str):
            return written
        size, _, digest = written.partition(" ")
        return {"bytes": size, "sha256": digest}

    @model_serializer
    def _write(self) -> str:
        return f"{self.bytes} {self.sha256}"


@dataclass(frozen=True)
class FileDigest:
    """SHA-256 of a file in hex, and its chunks in order; none where it has no borders of its own."""

    sha256: str
    chunks: tuple[Chunk, ...] = ()


class ChunkHasher:
    """Computes a file's chunks while the file is read or written. A chunk ends at `end`, and at the limit."""

    def __init__(self) -> None:
        self._hasher = hashlib.sha256()
        self._filled = 0
        self._chunks: list[Chunk] = []

    def update(self, data: bytes | memoryview) -> None:
        """Add the file's next bytes."""
        rest = memoryview(data)
        while rest:
            part = rest[: CHUNK_BYTES_LIMIT - self._filled]
            self._hasher.update(part)
            self._filled += len(part)
            rest = rest[len(part) :]
            if self._filled == CHUNK_BYTES_LIMIT:
                self.end()

    def end(self) -> None:
        """Set a border here, unless there is one already."""
        if self._filled:
            self._chunks.append(Chunk(bytes=self._filled, sha256=self._hasher.hexdigest()))
            self._hasher, self._filled = hashlib.sha256(), 0

    def chunks(self) -> tuple[Chunk, ...]:
        """Return all chunks; the file ends here."""
        self.end()
        return tuple(self._chunks)


def digest_in_chunks(path: Path, borders: Iterable[int]) -> FileDigest:
    """Read a file once and hash it, whole and by chunks that begin at `borders` (offsets in bytes, in any order)."""
    hasher, chunks = hashlib.sha256(), ChunkHasher()
    with path.open("rb") as stream, ThreadPoolExecutor(1) as hashing:
        size = path.stat().st_size
        position = 0
        for border in sorted({border for border in borders if border < size} | {size}):
            while position < border:
                piece = stream.read(min(_PIECE, border - position))
                if not piece:
                    raise OSError(f"{path} ends at byte {position} of {size}")
                hashed = hashing.submit(chunks.update, piece)
                hasher.update(piece)
                hashed.result()
                position += len(piece)
            chunks.end()
    return FileDigest(hasher.hexdigest(), chunks.chunks())
