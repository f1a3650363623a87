"""Where a long command's time and memory go: the seconds of each step, and the peak of memory during it.

Steps are those that progress reports. The time between two events belongs to the step of the first, so the seconds of
all steps are the command's. Where several bundles are built at once, the step that reported last counts.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from phipack.tables import table
from targets.formatting import duration, share, size
from targets.progress import Step

OTHER = "other"
_EVERY_SECONDS = 0.2
_PROCESSES = Path("/proc")  # Linux alone; elsewhere no memory is shown


@dataclass
class Use:
    """What one step of one subject took. `peak_memory_bytes`: None where the system does not say."""

    subject: str
    phase: str
    seconds: float = 0.0
    peak_memory_bytes: int | None = None


class Profile:
    """Counts from its creation to `end`. `add` takes each step that is reported, from any thread."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, memory: Callable[[], int | None] | None = None
    ) -> None:
        self._clock = clock
        self._memory = memory or tree_memory
        self._lock = threading.Lock()
        self._current = Use("", OTHER)
        self._uses = {("", OTHER): self._current}
        self._since = clock()
        self._ended = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self._sampler.start()

    def add(self, step: Step) -> None:
        """Count until now for the step before, and from now on for this one."""
        is_over = 0 < step.total <= step.done
        self._look()
        with self._lock:
            self._charge()
            key = ("", OTHER) if is_over else (step.subject, step.name)
            self._current = self._uses.setdefault(key, Use(*key))

    def end(self) -> tuple[Use, ...]:
        """Stop, and return what each step took, in the order in which they began. `other` comes last."""
        self._ended.set()
        self._sampler.join()
        self._look()
        with self._lock:
            self._charge()
            other = self._uses.pop(("", OTHER), Use("", OTHER))
            return (*self._uses.values(), other)

    def _charge(self) -> None:
        now = self._clock()
        self._current.seconds += now - self._since
        self._since = now

    def _look(self) -> None:
        found = self._memory()
        with self._lock:
            if found is not None:
                self._current.peak_memory_bytes = max(found, self._current.peak_memory_bytes or 0)

    def _sample(self) -> None:
        while not self._ended.wait(_EVERY_SECONDS):
            self._look()


def tree_memory() -> int | None:
    """Return the resident bytes of this process and of all that it started, mapped files included; None if unknown."""
    if not (_PROCESSES / "self" / "statm").is_file():
        return None
    total, processes = 0, [str(os.getpid())]
    while processes:
        folder = _PROCESSES / processes.pop()
        try:
            total += int((folder / "statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
            for thread in (folder / "task").iterdir():
                processes += (thread / "children").read_text("ascii").split()
        except OSError:  # it has ended meanwhile
            continue
    return total


def profile_text(uses: tuple[Use, ...]) -> str:
    """Lay out what steps took."""
    total = sum(use.seconds for use in uses) or 1.0
    rows = [
        (
            use.subject or None,
            use.phase,
            duration(use.seconds),
            share(use.seconds / total),
            None if use.peak_memory_bytes is None else size(use.peak_memory_bytes),
        )
        for use in uses
    ]
    return table(("of", "phase", "time", "share", "peak memory"), rows)
