"""One thing that a reviewer is pointed to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["fail", "defect", "look", "note"]  # the worst first
_WORDS: dict[Severity, str] = {"fail": "Fails", "defect": "Probable defect", "look": "Look at", "note": "Note"}
KL_NOTABLE = 0.005  # nats: below, a relative change of a divergence means little


@dataclass(frozen=True)
class Finding:
    """One thing to look at. `anchor`: the part of a cell's section that shows it.

    `severity`: a gate or check fails; nothing that was changed explains it; somebody has to say whether it is wanted;
    for information.
    """

    severity: Severity
    text: str
    anchor: str

    @property
    def word(self) -> str:
        """The severity as a word: it is never shown by a colour alone."""
        return _WORDS[self.severity]
