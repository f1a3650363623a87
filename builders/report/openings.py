"""How answers begin: what all of them have in front, and none of production's, comes from the prompt's end."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from builders.report.content import CellContent
from builders.report.finding import Finding
from builders.report.white_space import visible

_FEWEST = 3  # answers that begin alike by no chance
_FIRST = re.compile(r"\s+|\w+|[^\w\s]+")


def of_openings(cell: CellContent) -> Iterator[Finding]:
    """Yield that every answer begins with white space, or with the same word, and none of production's does."""
    new, old = cell.candidate.details, None if cell.before is None else cell.before.details
    if new is None or old is None or cell.before is None or min(len(new.answers), len(old.answers)) < _FEWEST:
        return
    here, there = ([_opening(one.bundle) for one in side.answers] for side in (new, old))
    name = f"none of {cell.before.name} does"
    if all(map(str.isspace, here)) and not any(map(str.isspace, there)):
        shown = _shown(here)
        text = f"All {len(here)} answers begin with {shown}, and {name}: the template or a token at the prompt's end"
        yield Finding("defect", f"{text} may be wrong.", "answers")
    elif len(set(here)) == 1 and here[0] and here[0] not in there:
        text = f"All {len(here)} answers begin with “{visible(here[0])}”, and {name}."
        yield Finding("look", text, "answers")


def _opening(answer: str) -> str:
    """Return white space at the start, else the first word; empty for an empty answer."""
    found = _FIRST.match(answer)
    return "" if found is None else found[0]


def _shown(openings: Sequence[str]) -> str:
    if all(one.startswith("\n") for one in openings):
        return "a line break (\N{RETURN SYMBOL})"
    return "white space"
