"""Answers that go on in special tokens, such as one that begins another turn: they did not end where a turn ends."""

from __future__ import annotations

from collections.abc import Iterator

from builders.report.content import CellContent
from builders.report.finding import Finding
from targets.evidence_details import Answer, Details
from targets.formatting import count

_MOST_NAMED = 3


def of_own_turns(cell: CellContent) -> Iterator[Finding]:
    """Yield how many answers have special tokens in them: a probable defect where none of production's has any."""
    details, before = cell.candidate.details, None if cell.before is None else cell.before.details
    found = _with_special_tokens(details)
    if details is None or not found:
        return
    named = list(dict.fromkeys(token for one in found for token in one.special_tokens or ()))
    text = (
        f"{len(found)} of {count(len(details.answers), 'answer')} {_have(len(found))} special tokens in the text,"
        f" such as {', '.join(named[:_MOST_NAMED])}: the turn did not end where it should"
    )
    asked = () if before is None else before.answers
    if cell.before is None or not asked or any(one.special_tokens is None for one in asked):
        yield Finding("look", f"{text}.", "answers")
    elif number := len(_with_special_tokens(before)):
        if len(found) > number:
            yield Finding("look", f"{text}; {number} of {cell.before.name} {_have(number)}.", "answers")
    else:
        yield Finding("defect", f"{text}. None of {cell.before.name} has any.", "answers")


def _have(number: int) -> str:
    return "has" if number == 1 else "have"


def _with_special_tokens(details: Details | None) -> list[Answer]:
    return [] if details is None else [one for one in details.answers if one.special_tokens]
