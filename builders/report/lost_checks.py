"""Checks that production's evidence has, and this one's has not: whatever they guarded was not looked at."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from builders.report.content import CellContent, Recorded, Subject
from builders.report.finding import Finding
from builders.report.recipes import recipe_on
from targets.evidence_details import Check
from targets.formatting import count

_NUMBER_OF_ANSWERS = re.compile(r"share of \d+ answers.*:")
_MOST_NAMED = 4


def of_lost_checks(cell: CellContent) -> Iterator[Finding]:
    """Yield which checks were lost, whether they could not be run or were never asked for."""
    lost = _lost(cell)
    if not lost or cell.before is None:
        return
    old, new = cell.before, cell.candidate
    named = "; ".join(f"{one.group}: {one.name}" for one in _one_of_each_group_first(lost)[:_MOST_NAMED])
    more = f"; and {len(lost) - _MOST_NAMED} more" if len(lost) > _MOST_NAMED else ""
    suites = [None if side.details is None else side.details.suite for side in (old, new)]
    other = _format(old) != _format(new) or suites[0] != suites[1]
    why = " Suite or format are others." if other else ""
    text = f"{count(len(lost), 'check')} of {old.name} {'was' if len(lost) == 1 else 'were'} not made here:"
    yield Finding("look", f"{text} {named}{more}.{why}", "checks")


def _format(side: Subject | Recorded) -> str:
    """Return the format, which every recipe's name begins with."""
    return recipe_on(side).partition("-")[0]


def number_of_lost_checks(cell: CellContent) -> int:
    """Return how many checks production's evidence has that were not made here."""
    return len(_lost(cell))


def _lost(cell: CellContent) -> list[Check]:
    new, old = cell.candidate.details, None if cell.before is None else cell.before.details
    if new is None or old is None:
        return []
    there = set(map(_key, new.checks))
    return [one for one in old.checks if _key(one) not in there]


def _one_of_each_group_first(checks: Sequence[Check]) -> list[Check]:
    """Return the checks in an order in which the few that are named are of as many groups as there are."""
    groups = [one.group for one in checks]
    places = {id(one): groups[:at].count(one.group) for at, one in enumerate(checks)}
    return sorted(checks, key=lambda one: places[id(one)])


def _key(check: Check) -> tuple[str, str]:
    return check.group, _NUMBER_OF_ANSWERS.sub("share of answers:", check.name)
