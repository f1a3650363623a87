"""A lease in a place that can only write, read and remove names: who holds it moves channels, nobody else does.

    claim.OWNER = {"who": …, "beat": 7}    one a process that holds the lease or tries to; the beat rises while it lives
    holder      = OWNER                    who has it now

    turn.OWNER  = {"who": …, "beat": 7, "number": 3}    one a process that waits its turn

To take it: see nobody living, write a claim, look again. Of two at once each sees the other, and both step back: at
most one goes on. It then removes the claims of the dead and names itself the holder. Who finds it held waits its turn:
of those that wait only the one with the lowest number tries. Turns make it fair and quick, claims alone make it safe.

Where the place is away when a claim is to go, its owner tries on for `farewell_seconds`: the next one need not wait for
it to be stale.

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from registry.ledger.lock_wait import Told, Waiting, silent
from targets.errors import PhipackError, RegistryError

Check = Callable[[], None]  # called before each change; raises `LeaseLostError` where this process may make none

CLAIM, TURN = "claim.", "turn."
HOLDER = "holder"
_SHORTEST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.05, 3.0  # between two looks of who waits
_FAREWELL_PAUSE_SECONDS = 0.5
_BEATS_OF_A_TURN = 3  # that many beats missed, and the others go first: it costs nobody safety
_WHAT = "the lease on the model's channels"


class AwayError(RegistryError):
    """The registry can't be reached, or is in trouble: in a moment it may answer again."""


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
    """Seconds: between beats; up to which one lets its process change things; until it is dead; to wait; to let go."""

    beat_seconds: float = 5.0
    fresh_seconds: float = 20.0
    stale_seconds: float = 90.0
    wait_seconds: float = 240.0
    farewell_seconds: float = 60.0


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

    @property
    def turn(self) -> str:
        """The name of its turn."""
        return TURN + self.owner

    def check(self) -> None:
        """Ask whether it is held still: before each change. Raises `LeaseLostError`."""
        names = {} if self._late else self.place.read()
        if self._late or names.get(HOLDER) != self.owner or self.claim not in names:
            raise LeaseLostError(
                f"{self.who} no longer holds the lease on the model's channels: this process stood still, or its"
                " connection did; what was half-way is undone by the next move",
                fix="see phipack history, and try again",
            )

    @property
    def _late(self) -> bool:
        return time.monotonic() - self.beaten > self.timing.fresh_seconds

    def send_beat(self) -> None:
        """Say that this process lives."""
        sent = time.monotonic()
        self.beat += 1
        self.place.write(self.claim, json.dumps({"who": self.who, "beat": self.beat}))
        self.beaten = sent

    def keep_beating(self) -> None:
        """Beat until it is stopped. One that fails is soon sent again; a claim that was removed is not made anew."""
        pause = self.timing.beat_seconds
        while not self.stopped.wait(pause):
            pause = self.timing.beat_seconds / 5
            with suppress(PhipackError):
                if self.claim not in self.place.read():
                    return
                self.send_beat()
                pause = self.timing.beat_seconds


class _Watch:
    """Which of one kind of names live: those whose value changed within `stale_seconds` of this process's time."""

    def __init__(self, prefix: str, stale_seconds: float) -> None:
        self._prefix, self._stale_seconds = prefix, stale_seconds
        self._seen: dict[str, tuple[str, float]] = {}

    def split(self, names: Mapping[str, str], mine: str) -> tuple[list[str], list[str]]:
        """Give the living and the dead among other processes' names."""
        now = time.monotonic()
        others = {name: value for name, value in names.items() if name.startswith(self._prefix) and name != mine}
        self._seen = {
            name: self._seen[name] if name in self._seen and self._seen[name][0] == value else (value, now)
            for name, value in others.items()
        }
        dead = [name for name, (_, since) in self._seen.items() if now - since > self._stale_seconds]
        return [name for name in others if name not in dead], dead


@contextmanager
def held(place: Place, who: str, timing: Timing, told: Told = silent) -> Iterator[Check]:
    """Hold the lease; gives what is to be called before each change, `Lease.check`.

    Raises:
        RegistryError: others held it for `wait_seconds`; the place can't be reached.
    """
    lease = Lease(place, who, timing)
    _take(lease, told)
    beating = threading.Thread(target=lease.keep_beating, daemon=True)
    beating.start()
    try:
        yield lease.check
    finally:
        lease.stopped.set()
        beating.join()  # a beat after the removal would make the claim anew
        _say_farewell(lease, told)


def _take(lease: Lease, told: Told = silent) -> None:
    claims = _Watch(CLAIM, lease.timing.stale_seconds)
    queue = _Queue(lease)
    waiting = Waiting(lease.who, lease.timing.wait_seconds, told)
    started = time.monotonic()
    try:
        while True:
            asked = time.monotonic()
            names = lease.place.read()
            took = time.monotonic() - asked
            living, _ = claims.split(names, lease.claim)
            before_me = queue.before_me(names)
            if not living and not before_me and _try_alone(lease, claims):
                return
            others = living or [queue.first_of(names, before_me)]
            holder = ", ".join(sorted({_told_by(names.get(name), "who", "somebody") for name in others}))
            dies = f"; if that process died, for up to {lease.timing.stale_seconds:.0f} s"
            waiting.note(time.monotonic() - started, holder, _WHAT, besides=dies)
            queue.stand_in(names)
            # Who is far back looks seldom, and all do where the server is busy: looking must not be what keeps it so.
            pause = max(_SHORTEST_PAUSE_SECONDS, 2 * took) * (1 + 4 * len(before_me))
            time.sleep(min(pause, _LONGEST_PAUSE_SECONDS) * random.uniform(0.5, 1.5))  # noqa: S311 - not to meet again
    finally:
        queue.leave()


class _Queue:
    """Where this process stands among those that wait."""

    def __init__(self, lease: Lease) -> None:
        self._lease = lease
        self._watch = _Watch(TURN, _BEATS_OF_A_TURN * lease.timing.beat_seconds)
        self._dead: list[str] = []
        self._number: int | None = None
        self._beat = 0
        self._beaten = 0.0

    def before_me(self, names: Mapping[str, str]) -> list[str]:
        """The living turns that come before this one, all of them where it has none."""
        living, self._dead = self._watch.split(names, self._lease.turn)
        mine = (self._number, self._lease.turn)
        return [name for name in living if self._number is None or (_number(names[name]), name) < mine]

    def first_of(self, names: Mapping[str, str], turns: Sequence[str]) -> str:
        """The first of them."""
        return min(turns, key=lambda name: (_number(names[name]), name), default="")

    def stand_in(self, names: Mapping[str, str]) -> None:
        """Take a number, the first time; then beat, so that the others wait for it."""
        if self._number is None:
            taken = [_number(value) for name, value in names.items() if name.startswith(TURN)]
            self._number = max(taken, default=0) + 1
        elif time.monotonic() - self._beaten < self._lease.timing.beat_seconds:
            return
        self._beat += 1
        turn = {"who": self._lease.who, "beat": self._beat, "number": self._number}
        self._lease.place.write(self._lease.turn, json.dumps(turn))
        self._beaten = time.monotonic()

    def leave(self) -> None:
        """Take the turn away, and those of the dead."""
        for name in [*self._dead, *([] if self._number is None else [self._lease.turn])]:
            _let_go(self._lease.place, name)


def _try_alone(lease: Lease, claims: _Watch) -> bool:
    """Claim, look again, and stay where nobody else lives; else leave nothing."""
    try:
        lease.send_beat()
        living, dead = claims.split(lease.place.read(), lease.claim)
        if not living:
            for name in dead:
                lease.place.remove(name)
            if time.monotonic() - lease.beaten <= lease.timing.fresh_seconds:
                lease.place.write(HOLDER, lease.owner)
                return True
    except BaseException:
        _let_go(lease.place, lease.claim)
        raise
    lease.place.remove(lease.claim)
    return False


def _let_go(place: Place, name: str) -> None:
    with suppress(PhipackError):  # what was done is done; the others wait until it is stale
        place.remove(name)


def _say_farewell(lease: Lease, told: Told) -> None:
    """Take the claim away; where the place is away itself, try on for a while. What was done is done: no error."""
    until = time.monotonic() + lease.timing.farewell_seconds
    with suppress(PhipackError):
        while True:
            try:
                return lease.place.remove(lease.claim)
            except AwayError:
                if time.monotonic() > until:
                    raise
            told(f"waiting for the registry to answer again, to let go of {_WHAT}")
            told = silent
            time.sleep(_FAREWELL_PAUSE_SECONDS)


def _told_by(value: str | None, key: str, otherwise: Any) -> Any:
    """What a claim or turn says of itself, as far as it is one."""
    try:
        return json.loads(value or "")[key]
    except (ValueError, KeyError, TypeError):
        return otherwise


def _number(value: str) -> int:
    number = _told_by(value, "number", 0)
    return number if isinstance(number, int) else 0
