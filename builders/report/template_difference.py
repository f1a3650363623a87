"""The difference of two chat templates, block by block, with the words that differ marked and white space made visible.

A template that is off by one line break or blank is the change that a reviewer overlooks most easily.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from builders.report.answers import Piece, marked
from builders.report.white_space import visible

_WORD = re.compile(r"\w+|\W")  # each sign and each white space by itself
_LONGEST = 120  # characters of what a sentence quotes


@dataclass(frozen=True)
class Block:
    """Neighbouring lines of one kind. What differs in them has its white space as signs."""

    kind: Literal["gone", "new", "same"]
    pieces: tuple[Piece, ...]


def blocks(difference: Sequence[str]) -> list[Block]:
    """Return the lines of a unified difference in blocks."""
    found: list[Block] = []
    for gone, new, same in _hunks(difference):
        if gone:
            found.append(Block("gone", _shown(marked(new, gone, _WORD), whole=not new and bool(gone.strip()))))
        if new:
            found.append(Block("new", _shown(marked(gone, new, _WORD), whole=not gone and bool(new.strip()))))
        if same:
            found.append(Block("same", (Piece(same, differs=False),)))
    return found


def in_words(difference: Sequence[str]) -> str:
    """Return what differs as a sentence's end: `“a” becomes “b”`; empty where that would be long."""
    changes = []
    for gone, new, _ in _hunks(difference):
        sides = marked(new, gone, _WORD), marked(gone, new, _WORD)
        old, now = (" … ".join(one.text for one in pieces if one.differs) for pieces in sides)
        if old or now:
            changes.append(_change(old, now))
    text = "; ".join(changes)
    return text if len(text) <= 2 * _LONGEST else ""


def _change(old: str, new: str) -> str:
    if not new:
        return f"{_quoted(old)} is gone"
    return f"{_quoted(old)} becomes {_quoted(new)}" if old else f"{_quoted(new)} is new"


def _quoted(text: str) -> str:
    shown = text.replace("\n", "\\n").replace("\t", "\\t")
    return f"\N{LEFT DOUBLE QUOTATION MARK}{shown}\N{RIGHT DOUBLE QUOTATION MARK}"


def _hunks(difference: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Yield lines that are gone, those in their place, and those after them that both have; each as one text."""
    gone: list[str] = []
    new: list[str] = []
    same: list[str] = []
    for line in difference[2:]:  # after the names of the two sides
        if line.startswith("@@"):
            continue
        sign, text = line[:1], line[1:]
        if same and sign in ("-", "+"):
            yield _text(gone), _text(new), _text(same)
            gone, new, same = [], [], []
        {"-": gone, "+": new}.get(sign, same).append(text)
    if gone or new or same:
        yield _text(gone), _text(new), _text(same)


def _text(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _shown(pieces: Iterable[Piece], *, whole: bool) -> tuple[Piece, ...]:
    """Make white space visible where it differs; `whole`: all lines are of one side, so that their text is enough."""
    if whole:
        return tuple(pieces)
    return tuple(Piece(visible(one.text), one.differs) if one.differs else one for one in pieces)
