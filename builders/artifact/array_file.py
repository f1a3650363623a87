"""A large file written array by array, and hashed while the next array is computed.

Each array begins a chunk, and the padding after it belongs to that chunk, so that a chunk's bytes don't depend on where
in the file it lies.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from builders.artifact.content_borders import content_pieces
from builders.phases import Phases
from registry.bundle.chunks import ChunkHasher, FileDigest
from registry.files.large_file import LargeFile


class ArrayFile:
    """A new file: `head`, then arrays, each at a multiple of `alignment` bytes. Elements little-endian, row-major.

    At most one call's arrays wait to be written. Raises `OSError` (from `append` or at the end) where the disk is full.
    `pads_end`: the file's length is a multiple of the alignment too.
    """

    def __init__(
        self, path: Path, alignment: int, phases: Phases, *, head: bytes = b"", pads_end: bool = False
    ) -> None:
        self._alignment = alignment
        self._pads_end = pads_end
        self._phases = phases
        self._hasher = hashlib.sha256()
        self._chunks = ChunkHasher()
        self._file = LargeFile(path)
        self._writer = ThreadPoolExecutor(1)
        self._chunk_hashing = ThreadPoolExecutor(1)  # hashes the chunks while the writer hashes the whole file
        self._last = self._writer.submit(self._write_head, head)

    def append(self, arrays: Sequence[NDArray[Any]]) -> None:
        """Write arrays, once those before them are written."""
        self._last.result()
        self._last = self._writer.submit(self._write, arrays)

    @property
    def digest(self) -> FileDigest:
        """Digests of the whole file and of its chunks, as handed to the system. Complete after the `with` block."""
        return FileDigest(self._hasher.hexdigest(), self._chunks.chunks())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._last.result()
                if self._pads_end:
                    self._pad()
        finally:
            self._writer.shutdown(cancel_futures=True)
            self._chunk_hashing.shutdown()
            self._file.__exit__(kind, error, trace)

    def _write_head(self, head: bytes) -> None:
        for piece in content_pieces(head):
            self._chunks.end()
            self._put(piece)

    def _write(self, arrays: Sequence[NDArray[Any]]) -> None:
        for array in arrays:
            self._pad()
            self._chunks.end()
            raw = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).reshape(-1).view(np.uint8).data
            self._put(raw)

    def _put(self, raw: memoryview) -> None:
        chunked = self._chunk_hashing.submit(self._chunk, raw)
        with self._phases.phase("hash", len(raw)):
            self._hasher.update(raw)
        with self._phases.phase("write", len(raw)):
            self._file.write(raw)
        chunked.result()

    def _chunk(self, raw: memoryview) -> None:
        with self._phases.phase("hash"):
            self._chunks.update(raw)

    def _pad(self) -> None:
        self._put(memoryview(bytes(-self._file.position % self._alignment)))
