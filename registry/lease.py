"""A lease in a place that can only write, read and remove names: who holds it moves channels, nobody else does.

    claim.OWNER = {"who": …, "beat": 7}    one a process that holds the lease or tries to; the beat rises while it lives
    holder      = OWNER                    who has it now

To take it: see nobody living, write a claim, look again. Of two at once each sees the other, and both step back: at
most one goes on. It then removes the claims of the dead and names itself the holder.

No clocks are compared. A process is dead to another one when its beat has not risen for `stale_seconds` of the other's
own time. Who holds the lease asks before each change whether it still does, and makes none when its own last beat is
older than `fresh_seconds`; a request under way ends within the rest (MLflow's client gives up after 3 x 20 s). What is
left: a process that stands still for a minute and a half after it asked and before its request leaves.
"""

from __future__ import annotations

import json
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol

from targets.errors import PhipackError, RegistryError

Check = Callable[[], None]  # called before each change; raises `LeaseLostError` where this process may make none

CLAIM = "claim."
HOLDER = "holder"
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.05, 1.0


class LeaseLostError(RegistryError):
    """Another process took this one for dead and holds the lease now; it undoes what was left half-way."""


def certain() -> None:
    """The check of a lock that only its process's end takes away."""


class Place(Protocol):
    """Where claims are kept. Each write is seen by every read that starts after it."""

    def read(self) -> Mapping[str, str]:
        """All names with their values."""
        ...

    def write(self, name: str, value: str) -> None:
        """Set a name."""
        ...

    def remove(self, name: str) -> None:
        """Remove a name, if it is there."""
        ...


@dataclass(frozen=True)
class Timing:
    """Seconds: between beats; up to which a beat lets its process change things; after which it is dead; to wait."""

    beat_seconds: float = 5.0
    fresh_seconds: float = 20.0
    stale_seconds: float = 90.0
    wait_seconds: float = 240.0


@dataclass
class Lease:
    """A lease that is held, as long as its beats get through. `held` makes it."""

    place: Place
    who: str
    timing: Timing
    owner: str = field(default_factory=lambda: uuid.uuid4().hex)
    beat: int = 0
    beaten: float = 0.0  # when the last beat that got through was sent, by time.monotonic()
    stopped: threading.Event = field(default_factory=threading.Event)

    @property
    def claim(self) -> str:
        """The name of its claim."""
        return CLAIM + self.owner

    def check(self) -> None:
        """Ask whether it is held still: before each change. Raises `LeaseLostError`."""
        names = self.place.read()
        late = time.monotonic() - self.beaten > self.timing.fresh_seconds
        if late or names.get(HOLDER) != self.owner or self.claim not in names:
            raise LeaseLostError(
                f"{self.who} no longer holds the lease on the model's channels: this process stood still, or its"
                " connection did; what was half-way is undone by the next move",
                fix="see phipack history, and try again",
            )

    def send_beat(self) -> None:
        """Say that this process lives."""
        sent = time.monotonic()
        self.beat += 1
        self.place.write(self.claim, json.dumps({"who": self.who, "beat": self.beat}))
        self.beaten = sent

    def keep_beating(self) -> None:
        """Beat until it is stopped. A beat that fails is tried again; a claim that was removed is not made anew."""
        while not self.stopped.wait(self.timing.beat_seconds):
            with suppress(PhipackError):
                if self.claim not in self.place.read():
                    return
                self.send_beat()


class _Watch:
    """Which claims live: those whose value changed within `stale_seconds` of this process's time."""

    def __init__(self, stale_seconds: float) -> None:
        self._stale_seconds = stale_seconds
        self._seen: dict[str, tuple[str, float]] = {}

    def split(self, names: Mapping[str, str], mine: str) -> tuple[list[str], list[str]]:
        """Give the living and the dead among other processes' claims."""
        now = time.monotonic()
        claims = {name: value for name, value in names.items() if name.startswith(CLAIM) and name != mine}
        self._seen = {
            name: self._seen[name] if name in self._seen and self._seen[name][0] == value else (value, now)
            for name, value in claims.items()
        }
        dead = [name for name, (_, since) in self._seen.items() if now - since > self._stale_seconds]
        return [name for name in claims if name not in dead], dead


@contextmanager
def held(place: Place, who: str, timing: Timing) -> Iterator[Check]:
    """Hold the lease; gives what is to be called before each change, `Lease.check`.

    Raises:
        RegistryError: others held it for `wait_seconds`; the place can't be reached.
    """
    lease = Lease(place, who, timing)
    _take(lease)
    beating = threading.Thread(target=lease.keep_beating, daemon=True)
    beating.start()
    try:
        yield lease.check
    finally:
        lease.stopped.set()
        beating.join()  # a beat after the removal would make the claim anew
        _let_go(lease)


def _take(lease: Lease) -> None:
    timing = lease.timing
    watch = _Watch(timing.stale_seconds)
    deadline = time.monotonic() + timing.wait_seconds
    pause = _FIRST_PAUSE_SECONDS
    while True:
        names = lease.place.read()
        living, _ = watch.split(names, lease.claim)
        if not living and _try_alone(lease, watch):
            return
        if time.monotonic() > deadline:
            others = ", ".join(sorted({_who(names[name]) for name in living})) or "others"
            raise RegistryError(
                f"{others} held the lease on the model's channels for {timing.wait_seconds:.0f} s",
                fix="try again when they are done; phipack history shows what moves",
            )
        time.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - so that two don't meet again
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


def _try_alone(lease: Lease, watch: _Watch) -> bool:
    """Claim, look again, and stay where nobody else lives; else leave nothing."""
    try:
        lease.send_beat()
        living, dead = watch.split(lease.place.read(), lease.claim)
        if not living:
            for name in dead:
                lease.place.remove(name)
            if time.monotonic() - lease.beaten <= lease.timing.fresh_seconds:
                lease.place.write(HOLDER, lease.owner)
                return True
    except BaseException:
        _let_go(lease)
        raise
    lease.place.remove(lease.claim)
    return False


def _let_go(lease: Lease) -> None:
    with suppress(PhipackError):  # what was done is done; the others wait until the claim is stale
        lease.place.remove(lease.claim)


def _who(value: str) -> str:
    try:
        return str(json.loads(value)["who"])
    except (ValueError, KeyError, TypeError):
        return "somebody"
