"""Waiting for another process's lock: reported once, after a moment. `LockWait` also ends the wait.

What is here makes an `on_wait` for `file_lock`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Self

from targets.errors import PhipackError
from targets.progress import WAIT, Notice, Phase, Progress, silent

NOTICE_SECONDS = 3.0
WAIT_FIX = "wait for it or stop it, then run the same command again"


@dataclass
class _WaitNotice:
    """The one notice of a wait, and its phase: from the first call of `send` to `end`."""

    on_progress: Progress
    _started: float = field(default_factory=time.monotonic, init=False)
    _sent: bool = field(default=False, init=False)
    _waits: bool = field(default=False, init=False)

    def send(self, text: str, waited_seconds: float) -> None:
        """Report `text`, once, after a moment: `waited_seconds`, or since this was made."""
        if not self._waits:
            self._waits = True
            self.on_progress(Phase(WAIT, begins=True))
        if not self._sent and max(waited_seconds, time.monotonic() - self._started) > NOTICE_SECONDS:
            self._sent = True
            self.on_progress(Notice(text))

    def end(self) -> None:
        """Report that the wait is over, if there was one."""
        if self._waits:
            self._waits = False
            self.on_progress(Phase(WAIT, begins=False))


@contextmanager
def noticing(on_progress: Progress, what: str) -> Iterator[Callable[[float], None]]:
    """Yield an `on_wait` that reports that this process waits for another phipack, `what`: for as long as it takes.

    The block takes the lock, and no more: the phase `wait` lasts to its end.
    """
    notice = _WaitNotice(on_progress)
    try:
        yield partial(notice.send, f"waiting for another phipack, which {what}")
    finally:
        notice.end()


@dataclass
class LockWait:
    """The wait of `who`, up to `limit_seconds` for one holder: then an `error`, whose fix is `fix`.

    `on_progress` receives one notice, and the phase `wait` to the end of the `with` block that takes the lock.
    """

    who: str
    limit_seconds: float
    error: type[PhipackError]
    fix: str = WAIT_FIX
    on_progress: Progress = silent
    _notice: _WaitNotice = field(init=False)

    def __post_init__(self) -> None:
        self._notice = _WaitNotice(self.on_progress)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._notice.end()

    def note(self, waited_seconds: float, holder: str, what: str, *, until: str = "") -> None:
        """Note that `holder` still has `what`. Raises `error` where that has lasted too long.

        `waited_seconds`: for this holder. Those before it had their turn.
        """
        if waited_seconds > self.limit_seconds:
            raise self.error(f"{holder} held {what} for {waited_seconds:.0f} s", fix=self.fix)
        self._notice.send(f"waiting for {holder}, who holds {what}{until}", waited_seconds)

    def reporter(self, holder: str, what: str) -> Callable[[float], None]:
        """Return `note` of this holder and lock, to be called with the seconds waited so far."""
        return partial(self.note, holder=holder, what=what)
