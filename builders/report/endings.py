"""How answers end: by a stop id, cut by the limit of tokens, or past the place where another one ended."""

from __future__ import annotations

import re
from dataclasses import dataclass

from targets.evidence_details import Details
from targets.formatting import count

ROOM_TO_END = 128  # tokens, within which most answers end: a shorter limit says nothing about an answer that it cut
SHARES = ("empty_share", "endless_share", "loop_share")
_COUNTED = re.compile(r"share of (\d+) answers.*: (\w+)")


@dataclass(frozen=True)
class Sample:
    """How many answers a share is of, and how many tokens each might have; None where no answer was cut."""

    answers: int
    limit: int | None

    @property
    def has_room(self) -> bool:
        """Whether an answer that did not end says something."""
        return self.limit is None or self.limit >= ROOM_TO_END

    def __str__(self) -> str:
        """Return it in words."""
        limit = "" if self.limit is None else f", cut at {count(self.limit, 'token')}"
        return f"of {count(self.answers, 'answer')}{limit}"


def sample_of(details: Details | None, figure: str) -> Sample | None:
    """Return what a share of answers was taken on; None where that is not known."""
    if details is None or not details.answers:
        return None
    kind = figure.removeprefix("reference_").removesuffix("_share")
    names = [*(one.name for one in details.checks), *(one.name for one in details.not_run)]
    found = (_COUNTED.fullmatch(name) for name in names)
    counted = next((int(one[1]) for one in found if one and one[2] == kind), len(details.answers))
    return Sample(counted, limit_of(details))


def limit_of(details: Details) -> int | None:
    """Return the tokens after which an answer was cut; None where none was."""
    return max((one.tokens for one in details.answers if not one.bundle_ended), default=None)


def goes_on(text: str, ended: bool, other: str, other_ended: bool) -> bool:
    """Return whether an answer says all that another said until its end, and does not end there."""
    end = other.rstrip()
    return other_ended and not ended and bool(end) and text.startswith(end)
