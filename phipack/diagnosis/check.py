"""One check of `phipack doctor`: what was looked at, how it stands, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from targets.errors import PhipackError

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Check:
    """A result. `found` is what is there; `fix` what to do, None where nothing needs to be done."""

    name: str
    status: Status
    found: str
    fix: str | None = None


def failed(name: str, error: PhipackError) -> Check:
    """Return the check that an error is the result of."""
    return Check(name, "fail", error.problem, error.fix)
