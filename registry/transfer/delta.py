"""Delta files: how chunks of a new bundle are rebuilt from an old one's. `delta_writer.py` writes them.

A re-quantized fine-tune changes every chunk by a little: most bytes stay, the others move by one or two. So a chunk is
written as the bytes that changed in an old one: how far from the last, and by how much. On real weights that is little
over half of what zstd makes of an XOR, whose zeros cost it a bit each.

Format `phipack.delta/1`. Integers are unsigned and little-endian.

    offset 0    16 bytes    "phipack.delta/1", then a line feed
    offset 16   8 bytes     length of the index, at most 16 MiB
    offset 24               the index: JSON, UTF-8
                            the frames, one after the other, in the index's order, to the file's end

The index. `from` and `to` name bundles by the digests of their manifests:

    {"schema": "phipack.delta/1", "from": "sha256:…", "to": "sha256:…",
     "frames": [{"chunk": "65536 ab34…", "frame": 1234, "base": "model.gguf", "at": 4096},
                {"chunk": "700 cd56…", "frame": 321}]}

`chunk`: length and SHA-256 of what the frame rebuilds, as in manifests. `frame`: its length in this file. `base`, `at`:
path and offset in bundle `from` of what it is rebuilt from, which is as long as the chunk.

A frame is one zstd frame (RFC 8878) that states its content's size, without a dictionary. It is no longer than the
chunk, its content no longer than twice that. Without `base` its content is the chunk. With it, the content is N steps
and then N differences, a byte each; the chunk is what this leaves in `base`'s bytes:

    position = -1
    for each i < N:  position += steps[i];  bytes[position] = (bytes[position] + differences[i]) mod 256

Steps are 1 to 255. Steps of 255 whose difference is 0 lead over more than 255 unchanged bytes. A position beyond the
end, or other bytes than `chunk` names, mean that the delta or the old bundle is damaged: the chunk is then downloaded.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import deque
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import zstandard
from pydantic import BaseModel, ConfigDict, Field, model_validator

from registry.bundle.chunks import CHUNK_BYTES_LIMIT, Chunk
from registry.bundle.folder import Bundle
from targets.errors import FetchError
from targets.strict_json import MalformedJsonError, parse_model

DELTA_SCHEMA: Literal["phipack.delta/1"] = "phipack.delta/1"
MAGIC = f"{DELTA_SCHEMA}\n".encode()
LENGTH_BYTES = 8  # of the index's length
INDEX_BYTES_LIMIT = 16 << 20
STEP_LIMIT = 255
_PIECE = 1 << 16  # of sums: numbers that stay in the processor's cache
_HIGH_BITS = int.from_bytes(b"\x80" * _PIECE, "little")
_OTHER_BITS = int.from_bytes(b"\x7f" * _PIECE, "little")
_DIGEST = r"^sha256:[0-9a-f]{64}$"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FrameEntry(_Strict):
    """A frame of `frame` bytes, which rebuilds `chunk`; from what `base` has at offset `at`, where it names one."""

    chunk: Chunk
    frame: int = Field(gt=0, le=CHUNK_BYTES_LIMIT)
    base: str | None = None
    at: int | None = Field(None, ge=0)

    @model_validator(mode="after")
    def _is_no_longer_than_the_chunk(self) -> Self:
        if self.frame > self.chunk.bytes:
            raise ValueError(f"a frame of {self.frame} bytes for a chunk of {self.chunk.bytes}")
        if (self.base is None) != (self.at is None):
            raise ValueError("base and at go together")
        return self


class DeltaIndex(_Strict):
    """The index of a delta file."""

    schema_: Literal["phipack.delta/1"] = Field(DELTA_SCHEMA, alias="schema")
    from_: str = Field(alias="from", pattern=_DIGEST)
    to: str = Field(pattern=_DIGEST)
    frames: tuple[FrameEntry, ...]

    def to_bytes(self) -> bytes:
        """Return its JSON, without spaces."""
        return self.model_dump_json(by_alias=True, exclude_none=True).encode()


class DeltaFile:
    """An opened delta file, and the old bundle that it applies to. `open_delta` returns one; closed by `with`.

    Any thread may read chunks; one is rebuilt at a time, in at most four times its memory.
    """

    def __init__(self, path: Path, old: Bundle, index: DeltaIndex, begin: int) -> None:
        self.path, self.index = path, index
        self._old = old
        self._frames: dict[Chunk, tuple[FrameEntry, int]] = {}
        for entry in index.frames:
            self._frames[entry.chunk] = (entry, begin)
            begin += entry.frame
        self._one_at_a_time = threading.Lock()
        self._handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __contains__(self, chunk: Chunk) -> bool:
        return chunk in self._frames

    def chunk(self, chunk: Chunk) -> bytes | None:
        """Return a chunk, verified; None where there is no frame for it, or the delta or old bundle is damaged."""
        content = bytearray(chunk.bytes)
        return bytes(content) if self.rebuild(chunk, memoryview(content)) else None

    def rebuild(self, chunk: Chunk, out: memoryview) -> bool:
        """Rebuild a chunk in `out`, which is as long, and verify it. Return False where `chunk` returns None."""
        if chunk not in self._frames:
            return False
        entry, offset = self._frames[chunk]
        with self._one_at_a_time:
            try:
                self._apply(entry, os.pread(self._handle, entry.frame, offset), out)
            except (OSError, IndexError, ValueError, zstandard.ZstdError):
                return False
        return hashlib.sha256(out).hexdigest() == chunk.sha256

    def close(self) -> None:
        """Close the file."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _apply(self, entry: FrameEntry, frame: bytes, out: memoryview) -> None:
        """Raise what `rebuild` catches, where the frame is damaged."""
        content = _unpacked(frame, 2 * len(out))
        if entry.base is None or entry.at is None:
            out[:] = content
            return
        with self._old.file(entry.base).open("rb", buffering=0) as stream:
            stream.seek(entry.at)
            if stream.readinto(out) != len(out):
                raise ValueError(f"{entry.base} ends early")
        _change(out, content)


def open_delta(path: Path, old: Bundle) -> DeltaFile:
    """Open a delta file that applies to `old`. Raises `FetchError` where it is damaged, or is for another bundle."""
    try:
        with path.open("rb") as stream:
            head = stream.read(len(MAGIC) + LENGTH_BYTES)
            size = int.from_bytes(head[len(MAGIC) :], "little")
            if head[: len(MAGIC)] != MAGIC or size > INDEX_BYTES_LIMIT:
                raise _damaged(path, "it doesn't begin like one, or its index is too long")
            index = parse_model(DeltaIndex, stream.read(size))
        begin = len(head) + size
        if path.stat().st_size != begin + sum(entry.frame for entry in index.frames):
            raise _damaged(path, "it was cut, or has more than its index says")
        if index.from_ != old.digest:
            raise _damaged(path, f"it applies to {index.from_}, not to {old.digest}")
        sizes = {entry.path: entry.bytes for entry in old.manifest.files}
        for entry in index.frames:
            if entry.base is not None and (entry.at or 0) + entry.chunk.bytes > sizes.get(entry.base, 0):
                raise _damaged(path, f"{entry.base!r} of the bundle that it applies to has no byte {entry.at}")
        return DeltaFile(path, old, index, begin)
    except MalformedJsonError as error:
        raise _damaged(path, str(error)) from error
    except OSError as error:
        raise _damaged(path, f"it can't be read: {error.strerror}") from error


def _damaged(path: Path, why: str) -> FetchError:
    return FetchError(
        f"{path} is not a delta that can be used here: {why}", fix="fetch without it, or publish it again"
    )


def _unpacked(frame: bytes, limit: int) -> bytes:
    """Decompress. The size that the frame states is what is allocated, so it is checked first."""
    stated = zstandard.get_frame_parameters(frame).content_size
    if stated > limit:  # unknown is the largest number
        raise ValueError(f"a frame of {stated} bytes; the limit is {limit}")
    return zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)


def _change(base: memoryview, content: bytes) -> None:
    """Add differences to bytes of `base`. Without a loop in Python: they are put into position, then added all at once.

    Raises `IndexError` where a position is beyond the end.
    """
    count = len(content) // 2
    if 2 * count != len(content):
        raise ValueError("steps without differences")
    positions = bytearray(1 + len(base))  # steps begin at -1: everything is shifted by one
    deque(map(positions.__setitem__, accumulate(content[:count]), memoryview(content)[count:]), maxlen=0)
    differences = memoryview(positions)[1:]
    for begin in range(0, len(base), _PIECE):
        piece = slice(begin, begin + _PIECE)
        base[piece] = _sums(base[piece], differences[piece])


def _sums(some: memoryview, others: memoryview) -> bytes:
    """Add byte to byte, modulo 256: all at once, as numbers whose bytes' high bits are kept from carrying over."""
    a, b = int.from_bytes(some, "little"), int.from_bytes(others, "little")
    low = (a & _OTHER_BITS) + (b & _OTHER_BITS)
    return (low ^ ((a ^ b) & _HIGH_BITS)).to_bytes(len(some), "little")
