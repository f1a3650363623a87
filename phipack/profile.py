"""Where a long command's time and memory go: the seconds of each step, and the peak of memory during it.

Steps are those that progress reports. The time between two events belongs to the step of the first, so the seconds of
all steps are the command's. A step that begins within another one is not counted twice: when it is over, the outer one
goes on. Where several bundles are built at once, the step that reported last counts.

Processor seconds are those of all processes together. On a machine that does other work, they say what a step costs.
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
    """What one step of one subject took. `processor_seconds`, `peak_memory_bytes`: None where the system is silent."""

    subject: str
    phase: str
    seconds: float = 0.0
    processor_seconds: float | None = None
    peak_memory_bytes: int | None = None


@dataclass(frozen=True)
class Resources:
    """What processes have used so far: resident bytes now, and seconds of processors."""

    memory_bytes: int
    processor_seconds: float


class Profile:
    """Counts from its creation to `end`. `add` takes each step that is reported, from any thread."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, used: Callable[[], Resources | None] | None = None
    ) -> None:
        self._clock = clock
        self._used = used or tree_resources
        self._lock = threading.Lock()
        self._current = Use("", OTHER)
        self._uses = {("", OTHER): self._current}
        self._open = [("", OTHER)]  # steps that are not over, each within the one before
        self._since = clock()
        self._resources = self._used()
        self._charged = self._resources
        self._ended = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self._sampler.start()

    def add(self, step: Step) -> None:
        """Count until now for the step before, and from now on for this one."""
        key, is_over = (step.subject, step.name), 0 < step.total <= step.done
        self._look()
        with self._lock:
            self._charge()
            if key in self._open:
                del self._open[self._open.index(key) + (not is_over) :]
            elif not is_over:
                self._open.append(key)
            self._current = self._uses.setdefault(self._open[-1], Use(*self._open[-1]))

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
        now, current = self._clock(), self._current
        current.seconds += now - self._since
        if self._resources is not None and self._charged is not None:
            spent = self._resources.processor_seconds - self._charged.processor_seconds
            current.processor_seconds = (current.processor_seconds or 0.0) + max(0.0, spent)
        self._since, self._charged = now, self._resources

    def _look(self) -> None:
        found = self._used()
        with self._lock:
            self._resources = found
            if found is not None:
                self._current.peak_memory_bytes = max(found.memory_bytes, self._current.peak_memory_bytes or 0)

    def _sample(self) -> None:
        while not self._ended.wait(_EVERY_SECONDS):
            self._look()


def tree_resources() -> Resources | None:
    """Return what this process and all that it started use, mapped files included; None if unknown.

    Processor seconds include those of processes that have ended and were waited for.
    """
    if not (_PROCESSES / "self" / "statm").is_file():
        return None
    pages, ticks, processes = 0, 0, [str(os.getpid())]
    while processes:
        folder = _PROCESSES / processes.pop()
        try:
            pages += int((folder / "statm").read_text("ascii").split()[1])
            fields = (folder / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))  # of its own and of its children, in user and in system mode
            for thread in (folder / "task").iterdir():
                processes += (thread / "children").read_text("ascii").split()
        except OSError:  # it has ended meanwhile
            continue
    return Resources(pages * os.sysconf("SC_PAGE_SIZE"), ticks / os.sysconf("SC_CLK_TCK"))


def profile_text(uses: tuple[Use, ...]) -> str:
    """Lay out what steps took."""
    total = sum(use.seconds for use in uses) or 1.0
    rows = [
        (
            use.subject or None,
            use.phase,
            duration(use.seconds),
            share(use.seconds / total),
            None if use.processor_seconds is None else duration(use.processor_seconds),
            None if use.peak_memory_bytes is None else size(use.peak_memory_bytes),
        )
        for use in uses
    ]
    return table(("of", "phase", "time", "share", "processors", "peak memory"), rows)
