"""A large file's arrays, one after the other: written, and hashed on the way, while the next one is made."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from builders.phases import Phases
from registry.large_file import LargeFile


class ArrayFile:
    """A new file: `head`, then arrays, each from a multiple of `alignment` bytes. Elements little-endian, row-major.

    At most one call's arrays are waiting to be written. Raises `OSError` (from `append` or at the end) where the disk
    is full. `pads_end`: the file's length is a multiple of the alignment too.
    """

    def __init__(
        self, path: Path, alignment: int, phases: Phases, *, head: bytes = b"", pads_end: bool = False
    ) -> None:
        self._alignment = alignment
        self._pads_end = pads_end
        self._phases = phases
        self._hasher = hashlib.sha256()
        self._file = LargeFile(path)
        self._writer = ThreadPoolExecutor(1)
        self._last = self._writer.submit(self._write, [np.frombuffer(head, np.uint8)])

    def append(self, arrays: Sequence[NDArray[Any]]) -> None:
        """Write arrays, when those before them are written."""
        self._last.result()
        self._last = self._writer.submit(self._write, arrays)

    @property
    def sha256(self) -> str:
        """SHA-256 of the whole file, in hex: what was handed to the system, after the end."""
        return self._hasher.hexdigest()

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
            self._file.__exit__(kind, error, trace)

    def _write(self, arrays: Sequence[NDArray[Any]]) -> None:
        for array in arrays:
            self._pad()
            raw = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).reshape(-1).view(np.uint8).data
            with self._phases.phase("hash", len(raw)):
                self._hasher.update(raw)
            with self._phases.phase("write", len(raw)):
                self._file.write(raw)

    def _pad(self) -> None:
        padding = bytes(-self._file.position % self._alignment)
        self._hasher.update(padding)
        self._file.write(padding)
