"""The kinds of work that a build is made of, each reported as a phase by the code that does it, in its own thread.

`phipack/profile.py` sums them up. A phase inside another one interrupts it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

from targets.progress import Progress, phase, silent

Kind = Literal["calibrate", "read", "transform", "quantize", "write", "hash"]


@dataclass(frozen=True)
class Phases:
    """Reports the phases of one build, whose subject is `subject`."""

    on_progress: Progress = silent
    subject: str = ""

    def phase(self, kind: Kind, worked_bytes: int = 0) -> AbstractContextManager[None]:
        """Report the block as a phase that works on so many bytes."""
        return phase(self.on_progress, kind, self.subject, worked_bytes)
