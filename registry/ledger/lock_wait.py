"""Waiting for another process: said once, after a moment, and not for ever."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from targets.errors import RegistryError

Told = Callable[[str], None]
NOTICE_SECONDS = 3.0


def silent(_: str) -> None:
    """Tell nobody."""


@dataclass
class Waiting:
    """The wait of `who`, up to `limit_seconds`; `told` hears of it once."""

    who: str
    limit_seconds: float
    told: Told = silent
    _said: bool = field(default=False, init=False)

    def note(self, waited_seconds: float, holder: str, what: str, *, besides: str = "") -> None:
        """Note that `holder` still has `what`. Raises `RegistryError` where that has lasted for too long."""
        if waited_seconds > self.limit_seconds:
            raise RegistryError(
                f"{holder} held {what} for {waited_seconds:.0f} s",
                fix="wait for it, or end it, and try again; phipack history shows what moves",
            )
        if not self._said and waited_seconds > NOTICE_SECONDS:
            self._said = True
            self.told(f"waiting for {holder}, who holds {what}{besides}")
