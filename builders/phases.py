"""Where a build's time goes: seconds and bytes by phase, counted by the code that does the work.

Seconds are busy seconds: each of several threads counts its own. A phase inside another one is not counted twice.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

Phase = Literal["calibrate", "read", "transform", "quantize", "write", "hash"]
PHASES: tuple[Phase, ...] = ("calibrate", "read", "transform", "quantize", "write", "hash")


class Phases:
    """A stopwatch a phase. Safe to use from several threads."""

    def __init__(self) -> None:
        self._seconds: dict[Phase, float] = dict.fromkeys(PHASES, 0.0)
        self._bytes: dict[Phase, int] = dict.fromkeys(PHASES, 0)
        self._lock = threading.Lock()
        self._thread = threading.local()

    @contextmanager
    def phase(self, name: Phase, byte_count: int = 0) -> Iterator[None]:
        """Count the block's time as `name`, without that of phases inside it, and the bytes that it works on."""
        outer = getattr(self._thread, "inner_seconds", None)
        self._thread.inner_seconds = 0.0
        started = time.perf_counter()
        try:
            yield
        finally:
            took = time.perf_counter() - started
            with self._lock:
                self._seconds[name] += took - self._thread.inner_seconds
                self._bytes[name] += byte_count
            self._thread.inner_seconds = None if outer is None else outer + took

    @property
    def seconds(self) -> dict[Phase, float]:
        """Busy seconds of each phase."""
        with self._lock:
            return dict(self._seconds)

    @property
    def bytes(self) -> dict[Phase, int]:
        """Bytes that each phase worked on, as far as they were counted."""
        with self._lock:
            return dict(self._bytes)
