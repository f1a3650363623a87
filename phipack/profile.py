"""Where a command's time and memory go: of each phase of each subject, such as a cell. One form for all commands.

What is under way is known from progress: steps, and within them the phases that threads report (`targets/progress.py`).
Every moment belongs to what was under way in it:

- phases, where threads are in some: each to its innermost one, with equal shares of the time;
- else the step that reported last. A step that begins within another one interrupts it until it is over;
- else nothing: that is what could not be attributed.

So the times of all phases and what is not attributed are the command's. `wait` is a phase in which another process does
the work; a thread that waits has no share while others work.

Processor seconds are those of all processes together, counted a few times a second, and divided as the time was.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from targets.progress import WAIT, Phase, Step

_EVERY_SECONDS = 0.2
_DIGITS = 6  # of a difference of sums
_PROCESSES = Path("/proc")  # Linux alone; elsewhere neither memory nor processor seconds are shown
_Key = tuple[str, str]  # subject and phase
_NOTHING: _Key = ("", "")


@dataclass(frozen=True)
class Spent:
    """What something took. `processor_seconds`, `peak_memory_bytes`: None where the system does not say."""

    seconds: float
    processor_seconds: float | None
    peak_memory_bytes: int | None


@dataclass(frozen=True)
class PhaseUse(Spent):
    """What one phase took. `worked_bytes`: that it read or wrote; None where they were not counted."""

    phase: str
    worked_bytes: int | None


@dataclass(frozen=True)
class SubjectUse(Spent):
    """What the phases of one subject took."""

    subject: str
    phases: tuple[PhaseUse, ...]


@dataclass(frozen=True)
class Profile(Spent):
    """What a command took, of which `unattributed` belongs to no phase."""

    subjects: tuple[SubjectUse, ...]
    unattributed: Spent


@dataclass(frozen=True)
class Resources:
    """What processes have used so far: resident bytes now, and seconds of processors."""

    memory_bytes: int
    processor_seconds: float


@dataclass
class _Use:
    """What a phase has taken so far. `fresh_seconds`: since the processors were looked at."""

    seconds: float = 0.0
    fresh_seconds: float = 0.0
    processor_seconds: float | None = None
    peak_memory_bytes: int | None = None
    worked_bytes: int = 0

    def spent(self) -> tuple[float, float | None, int | None]:
        return self.seconds, self.processor_seconds, self.peak_memory_bytes


@dataclass
class _UnderWay:
    """Steps that are not over, each within the one before; and of each thread the phases that it is in."""

    steps: list[_Key] = field(default_factory=list)
    phases: dict[int, list[_Key]] = field(default_factory=dict)

    def note(self, event: Step | Phase) -> None:
        """Take what has begun or is over."""
        if isinstance(event, Step):
            self._note_step((event.subject, event.name), is_over=0 < event.total <= event.done)
            return
        own = self.phases.setdefault(threading.get_ident(), [])
        if event.begins:
            own.append((event.subject, event.name))
        elif own:  # else it began before the profile
            own.pop()

    def _note_step(self, key: _Key, *, is_over: bool) -> None:
        if key in self.steps:
            del self.steps[self.steps.index(key) + (not is_over) :]
        elif not is_over:
            self.steps.append(key)

    def now(self) -> list[_Key]:
        """Return what the present moment belongs to, in equal shares."""
        innermost = [own[-1] for own in self.phases.values() if own]
        return [key for key in innermost if key[1] != WAIT] or innermost or self.steps[-1:] or [_NOTHING]


class Profiler:
    """Counts from its creation to `end`. `add` takes each step and phase that is reported, from any thread."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, used: Callable[[], Resources | None] | None = None
    ) -> None:
        self._clock = clock
        self._used = used or tree_resources
        self._lock = threading.Lock()
        self._under_way = _UnderWay()
        self._uses: dict[_Key, _Use] = {_NOTHING: _Use()}
        self._started = self._since = clock()
        self._last = self._used()
        self._processor_seconds = 0.0
        self._peak_bytes = 0 if self._last is None else self._last.memory_bytes
        self._ended = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self._sampler.start()

    def add(self, event: Step | Phase) -> None:
        """Count until now for what was under way, and from now on for what is."""
        found = self._used() if isinstance(event, Step) else None  # phases come too often to look at all processes
        with self._lock:
            self._charge()
            if isinstance(event, Step):
                self._charge_resources(found)
            self._under_way.note(event)
            for key in self._under_way.now():
                self._uses.setdefault(key, _Use())
            if isinstance(event, Phase):
                self._uses.setdefault((event.subject, event.name), _Use()).worked_bytes += event.worked_bytes

    def end(self) -> Profile:
        """Stop, and return what each phase took: those of a subject together, in the order in which they began."""
        self._ended.set()
        self._sampler.join()
        self._look()
        with self._lock:
            return self._profile()

    def _profile(self) -> Profile:
        whole, processors = self._since - self._started, None if self._last is None else self._processor_seconds
        by_subject: dict[str, list[PhaseUse]] = {}
        for (subject, name), use in self._uses.items():
            if name:
                by_subject.setdefault(subject, []).append(PhaseUse(*use.spent(), name, use.worked_bytes or None))
        subjects = tuple(SubjectUse(*_sum(phases), subject, tuple(phases)) for subject, phases in by_subject.items())
        seconds, spent, _ = _sum(subjects)
        rest = None if processors is None else round(processors - (spent or 0.0), _DIGITS)
        unattributed = Spent(round(whole - seconds, _DIGITS), rest, self._uses[_NOTHING].peak_memory_bytes)
        return Profile(whole, processors, self._peak_bytes or None, subjects, unattributed)

    def _charge(self) -> None:
        """Count the time until now."""
        now, under_way = self._clock(), self._under_way.now()
        for key in under_way:
            share = (now - self._since) / len(under_way)
            self._uses[key].seconds += share
            self._uses[key].fresh_seconds += share
        self._since = now

    def _charge_resources(self, found: Resources | None) -> None:
        """Divide processor seconds since the last look as the time since then, and note the memory."""
        if found is None or self._last is None:
            return
        fresh = {key: use for key, use in self._uses.items() if use.fresh_seconds > 0}
        fresh = fresh or {key: self._uses[key] for key in self._under_way.now()}
        whole = sum(use.fresh_seconds for use in fresh.values())
        spent = max(0.0, found.processor_seconds - self._last.processor_seconds)
        for use in fresh.values():
            share = use.fresh_seconds / whole if whole else 1 / len(fresh)
            use.processor_seconds = (use.processor_seconds or 0.0) + share * spent
            use.peak_memory_bytes = max(found.memory_bytes, use.peak_memory_bytes or 0)
            use.fresh_seconds = 0.0
        self._peak_bytes = max(self._peak_bytes, found.memory_bytes)
        self._processor_seconds += spent
        self._last = found

    def _look(self) -> None:
        found = self._used()
        with self._lock:
            self._charge()
            self._charge_resources(found)

    def _sample(self) -> None:
        while not self._ended.wait(_EVERY_SECONDS):
            self._look()


def _sum(parts: list[PhaseUse] | tuple[SubjectUse, ...]) -> tuple[float, float | None, int | None]:
    """Return what several parts took together."""
    processors = [part.processor_seconds for part in parts if part.processor_seconds is not None]
    peaks = [part.peak_memory_bytes for part in parts if part.peak_memory_bytes is not None]
    return (
        sum(part.seconds for part in parts),
        sum(processors) if processors else None,
        max(peaks, default=None),
    )


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
