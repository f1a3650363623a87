"""The tensors' data behind a GGUF file's head: written, and hashed on the way, while the next tensor is made."""

from __future__ import annotations

import hashlib
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from builders.phases import Phases


class DataSection:
    """Appends tensors to a file, each from a multiple of `alignment` bytes. At most one is waiting to be written.

    Raises `OSError` (from `append` or at the end) where the disk is full.
    """

    def __init__(self, path: Path, alignment: int, phases: Phases) -> None:
        self._alignment = alignment
        self._phases = phases
        self._hasher = hashlib.sha256(path.read_bytes())  # the head
        self._stream = path.open("ab", buffering=0)
        self._writer = ThreadPoolExecutor(1)
        self._last: Future[None] | None = None

    def append(self, encoded: NDArray[Any]) -> None:
        """Write a tensor's bytes, when the one before it is written."""
        self._wait()
        self._last = self._writer.submit(self._write, encoded)

    @property
    def sha256(self) -> str:
        """SHA-256 of the whole file, in hex: what was handed to the system, after the end."""
        return self._hasher.hexdigest()

    def __enter__(self) -> Self:
        self._pad()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._wait()
        finally:
            self._writer.shutdown(cancel_futures=True)
            self._stream.close()

    def _wait(self) -> None:
        if self._last is not None:
            self._last.result()

    def _write(self, encoded: NDArray[Any]) -> None:
        raw = encoded.reshape(-1).view(np.uint8).data
        with self._phases.phase("hash", len(raw)):
            self._hasher.update(raw)
        with self._phases.phase("write", len(raw)):
            while len(raw):  # the system takes at most 2 GiB at once
                raw = raw[self._stream.write(raw) :]
            self._pad()

    def _pad(self) -> None:
        padding = bytes(-self._stream.tell() % self._alignment)
        self._hasher.update(padding)
        self._stream.write(padding)
