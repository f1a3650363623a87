"""One thing that differs between two bundles, or does not."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Change:
    """One thing on both sides, as text. `breaks`: the app has to change with it. `meaning`: what follows from it.

    `detail`: more of it, too long for a sentence. `loses`: something is gone that answers need. `effect`: in words what
    no longer reaches the model, which a reviewer has to read before anything else.
    """

    what: str
    before: str
    after: str
    breaks: bool = False
    meaning: str = ""
    loses: bool = False
    effect: str = ""
    detail: str = ""

    @property
    def changed(self) -> bool:
        """Whether the two sides differ."""
        return self.before != self.after

    @property
    def must_follow(self) -> bool:
        """Whether the app has to change, too."""
        return self.breaks and self.changed
