"""Waiting for another process's lock: reported once, after a moment. `LockWait` also ends the wait.

What is here makes an `on_wait` for `file_lock`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from targets.errors import PhipackError
from targets.progress import Notice, Progress, silent

NOTICE_SECONDS = 3.0
WAIT_FIX = "wait for it or stop it, then run the same command again"


@dataclass
class _WaitNotice:
    """The one notice of a wait."""

    on_progress: Progress
    _started: float = field(default_factory=time.monotonic, init=False)
    _sent: bool = field(default=False, init=False)

    def send(self, text: str, waited_seconds: float) -> None:
        """Report `text`, once, after a moment: `waited_seconds`, or since this was made."""
        if not self._sent and max(waited_seconds, time.monotonic() - self._started) > NOTICE_SECONDS:
            self._sent = True
            self.on_progress(Notice(text))


def noticing(on_progress: Progress, what: str) -> Callable[[float], None]:
    """Return an `on_wait` that reports that this process waits for another phipack, `what`: for as long as it takes."""
    return partial(_WaitNotice(on_progress).send, f"waiting for another phipack, which {what}")


@dataclass
class LockWait:
    """The wait of `who`, up to `limit_seconds` for one holder: then an `error`, whose fix is `fix`.

    `on_progress` receives one notice.
    """

    who: str
    limit_seconds: float
    error: type[PhipackError]
    fix: str = WAIT_FIX
    on_progress: Progress = silent
    _notice: _WaitNotice = field(init=False)

    def __post_init__(self) -> None:
        self._notice = _WaitNotice(self.on_progress)

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
