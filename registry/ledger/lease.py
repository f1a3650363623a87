"""A lease kept in names that can only be read, written and removed: its holder moves channels, nobody else does.

    claim.OWNER = {"who": …, "beat": 7}    one for each process that holds the lease or is taking it; the beat rises
    holder      = OWNER                    the process that took it last

To take it, a process waits until no claim lives, writes its own, and looks again. It goes on when it is alone: of two,
each of which wrote before it looked, at most one can be. Where it is not alone, the claim whose name comes first stays
and looks again, the others step back and wait; so one of them gets the lease, however many come at the same moment
(Lamport's one-bit algorithm: The mutual exclusion problem, part II, Journal of the ACM 33, 1986). Nobody stands in a
queue: `docs/decisions/0003-one-mover-at-a-time.md` says why.

No clocks are compared. A process is dead to another one when its beat has not risen for `stale_seconds` of the other's
own time. Before each change the holder asks whether it still holds the lease, unless it asked within `asked_seconds`
(each beat asks first), and it makes none when its own last beat is older than `fresh_seconds`; a request under way ends
within the rest (MLflow's client gives up after 3 x 20 s). The gap: a process that stands still for a minute and a
half after it asked and before its request leaves, and whose clock stands still too (a virtual machine that is paused).

Where the registry is unreachable when a claim must go, its owner tries for `release_seconds`: the next process need not
wait for it to be stale.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol

from registry.files.lock_wait import WAIT_FIX, LockWait
from targets.errors import PhipackError, RegistryError, RegistryUnreachableError
from targets.progress import Notice, Progress, silent
from targets.strict_json import parse_json

Check = Callable[[], None]  # called before each change; raises `LeaseLostError` where this process may make none

HISTORY_FIX = f"{WAIT_FIX}; phipack history shows what moves"
CLAIM = "claim."
HOLDER = "holder"
_WAIT_PAUSE_SECONDS = (0.2, 3.0)  # between two looks of a process that waits: the shortest and the longest
_LOOKS_APART = 30  # how many times longer than a look took its pause is
_TAKE_PAUSE_SECONDS = 0.05
_RELEASE_PAUSE_SECONDS = 0.5
_WHAT = "the lease on the model's channels"


class LeaseLostError(RegistryError):
    """Another process took this one for dead and holds the lease now; it undoes what was left half-way."""


def _now() -> float:
    """Return seconds by a clock that goes on while the machine sleeps, where it has one."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if sys.platform == "linux" else time.monotonic()


def never_lost() -> None:
    """Return: the check of a lock that is released only by its process's end."""


class LeaseTags(Protocol):
    """Where claims are kept. Each write is seen by every read that starts after it."""

    def read(self) -> Mapping[str, str]:
        """Return all names with their values."""
        ...

    def write(self, name: str, value: str) -> None:
        """Set a name."""
        ...

    def remove(self, name: str) -> None:
        """Remove a name, if it is there."""
        ...


@dataclass(frozen=True)
class Timing:
    """Seconds: between beats; a beat's age up to which its process changes things, and when it is dead; of waits.

    `asked_seconds`: how long the answer holds that this process has the lease.
    """

    beat_seconds: float = 5.0
    asked_seconds: float = 5.0
    fresh_seconds: float = 20.0
    stale_seconds: float = 90.0
    wait_seconds: float = 240.0
    release_seconds: float = 60.0


@dataclass
class Lease:
    """A lease that is held, as long as its beats get through. `held` makes it."""

    tags: LeaseTags
    who: str
    timing: Timing
    owner: str = field(default_factory=lambda: uuid.uuid4().hex)
    beat: int = 0
    beaten: float = float("-inf")  # when the last beat that got through was sent, by _now()
    asked: float = float("-inf")  # when it was last asked whether this process holds the lease, and it does
    stopped: threading.Event = field(default_factory=threading.Event)

    @property
    def claim(self) -> str:
        """The name of its claim."""
        return CLAIM + self.owner

    @property
    def is_fresh(self) -> bool:
        """True while the last beat is so young that nobody can take this process for dead."""
        return _now() - self.beaten <= self.timing.fresh_seconds

    def check(self) -> None:
        """Ask whether it is still held. Called before each change. Raises `LeaseLostError`."""
        if self.is_fresh and _now() - self.asked < self.timing.asked_seconds:
            return
        if not self.is_fresh or not self.ask():
            raise LeaseLostError(
                f"{self.who} no longer holds {_WHAT}: this process or its connection stood still;"
                " the next move undoes what is unfinished",
                fix="see phipack history, then run the same command again",
            )

    def ask(self) -> bool:
        """Ask whether it is still held, and keep when."""
        asked = _now()
        names = self.tags.read()
        if names.get(HOLDER) != self.owner or self.claim not in names:
            return False
        self.asked = asked
        return True

    def send_beat(self) -> None:
        """Show that this process lives."""
        sent = _now()
        self.beat += 1
        self.tags.write(self.claim, json.dumps({"who": self.who, "beat": self.beat}, allow_nan=False))
        self.beaten = sent

    def keep_beating(self) -> None:
        """Send beats until stopped. A failed one is soon repeated; a claim that was removed is not written again."""
        pause = self.timing.beat_seconds
        while not self.stopped.wait(pause):
            pause = self.timing.beat_seconds / 5
            with suppress(PhipackError):
                if not self.ask():
                    return
                self.send_beat()
                pause = self.timing.beat_seconds


class _Watch:
    """Which claims of other processes live: those that changed within `stale_seconds` of this process's time."""

    def __init__(self, mine: str, stale_seconds: float) -> None:
        self._mine, self._stale_seconds = mine, stale_seconds
        self._seen: dict[str, tuple[str, float]] = {}

    def split(self, names: Mapping[str, str]) -> tuple[list[str], list[str]]:
        """Return the living and the dead claims."""
        now = time.monotonic()
        claims = {name: value for name, value in names.items() if name.startswith(CLAIM) and name != self._mine}
        self._seen = {
            name: self._seen[name] if name in self._seen and self._seen[name][0] == value else (value, now)
            for name, value in claims.items()
        }
        dead = [name for name, (_, since) in self._seen.items() if now - since > self._stale_seconds]
        return [name for name in claims if name not in dead], dead


@contextmanager
def held(
    tags: LeaseTags, who: str, timing: Timing, on_progress: Progress = silent, seen: Mapping[str, str] | None = None
) -> Iterator[Check]:
    """Hold the lease; yields what must be called before each change, `Lease.check`.

    `seen`: all names, where they were read a moment ago: the first look.

    Raises:
        RegistryError: others held it for `wait_seconds`; the registry is unreachable.
    """
    lease = Lease(tags, who, timing)
    _take(lease, on_progress, seen)
    beating = threading.Thread(target=lease.keep_beating, daemon=True)
    beating.start()
    try:
        yield lease.check
    finally:
        lease.stopped.set()
        beating.join()  # a beat after the removal would write the claim again
        _release(lease, on_progress)


def _take(lease: Lease, on_progress: Progress = silent, seen: Mapping[str, str] | None = None) -> None:
    with LockWait(lease.who, lease.timing.wait_seconds, RegistryError, HISTORY_FIX, on_progress) as waiting:
        _take_in_turn(lease, waiting, seen)


def _take_in_turn(lease: Lease, waiting: LockWait, seen: Mapping[str, str] | None) -> None:
    watch = _Watch(lease.claim, lease.timing.stale_seconds)
    started = time.monotonic()
    while True:
        asked = time.monotonic()
        names, seen = lease.tags.read() if seen is None else seen, None
        took = time.monotonic() - asked
        living, _ = watch.split(names)
        if not living and _take_alone(lease, watch):
            return
        holder = ", ".join(sorted({_who(names[name]) for name in living})) or "another process"
        stale = f"; if that process died, for up to {lease.timing.stale_seconds:.0f} s"
        waiting.note(time.monotonic() - started, holder, _WHAT, until=stale)
        # Where the server is busy all look seldom: looking must not be what keeps it busy.
        shortest, longest = _WAIT_PAUSE_SECONDS
        pause = min(max(shortest, _LOOKS_APART * took), longest)
        time.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - not to meet again


def _take_alone(lease: Lease, watch: _Watch) -> bool:
    """Claim, and look until this process is alone; step back, leaving nothing, where another claim comes first."""
    try:
        lease.send_beat()
        while lease.is_fresh:
            names = lease.tags.read()
            living, dead = watch.split(names)
            if not living:
                for name in dead:
                    lease.tags.remove(name)
                if lease.is_fresh:
                    lease.tags.write(HOLDER, lease.owner)
                    lease.asked = lease.beaten  # since when nobody else can have taken it
                    return True
            elif min(living) < lease.claim or CLAIM + names.get(HOLDER, "") in living:
                break
            else:
                time.sleep(_TAKE_PAUSE_SECONDS)
    except BaseException:
        with suppress(PhipackError):  # the others wait until it is stale
            lease.tags.remove(lease.claim)
        raise
    lease.tags.remove(lease.claim)
    return False


def _release(lease: Lease, on_progress: Progress) -> None:
    """Remove the claim; try on for a while where the registry is unreachable. No error: what was done is done."""
    until = time.monotonic() + lease.timing.release_seconds
    with suppress(PhipackError):
        while True:
            try:
                return lease.tags.remove(lease.claim)
            except RegistryUnreachableError:
                if time.monotonic() > until:
                    raise
            on_progress(Notice(f"waiting for the registry to answer again, to release {_WHAT}"))
            on_progress = silent
            time.sleep(_RELEASE_PAUSE_SECONDS)


def _who(claim: str) -> str:
    """Return who a claim says it is of, as far as it says so."""
    try:
        return str(parse_json(claim)["who"])
    except (ValueError, KeyError, TypeError):
        return "another process"
