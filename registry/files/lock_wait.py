"""Waiting for another process's lock: reported once, after a moment, and not for ever."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from registry.files.lock import NOTICE_SECONDS
from targets.errors import PhipackError, RegistryError
from targets.progress import Notice, Progress, silent

_HISTORY_FIX = "wait for it or stop it, then run the same command again; phipack history shows what moves"


@dataclass
class LockWait:
    """The wait of `who`, up to `limit_seconds` for one holder: then an `error` with this `fix`.

    `on_progress` receives one notice.
    """

    who: str
    limit_seconds: float
    on_progress: Progress = silent
    error: type[PhipackError] = RegistryError
    fix: str = _HISTORY_FIX
    _noticed: bool = field(default=False, init=False)
    _started: float = field(default_factory=time.monotonic, init=False)

    def note(self, waited_seconds: float, holder: str, what: str, *, until: str = "") -> None:
        """Note that `holder` still has `what`. Raises `error` where that has lasted too long.

        `waited_seconds`: for this holder. Those before it had their turn.
        """
        if waited_seconds > self.limit_seconds:
            raise self.error(f"{holder} held {what} for {waited_seconds:.0f} s", fix=self.fix)
        waited = max(waited_seconds, time.monotonic() - self._started)
        if not self._noticed and waited > NOTICE_SECONDS:
            self._noticed = True
            self.on_progress(Notice(f"waiting for {holder}, who holds {what}{until}"))

    def reporter(self, holder: str, what: str) -> Callable[[float], None]:
        """Return `note` of this holder and lock, to be called with the seconds waited so far."""
        return partial(self.note, holder=holder, what=what)
