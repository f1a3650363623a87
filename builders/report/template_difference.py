"""The difference of two chat templates, block by block, with the words that differ marked and white space made visible.

A template that is off by one line break or blank is the change that a reviewer overlooks most easily.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from builders.report.answers import Piece, marked
from builders.report.same_prompts import Example
from builders.report.template_place import place_of, quoted
from builders.report.white_space import visible
from targets.formatting import count

_WORD = re.compile(r"\w+|\W")  # each sign and each white space by itself
_LONGEST = 120  # characters of what is quoted of one place
_MOST_NAMED = 2  # places
_HEADER = re.compile(r"@@ -(\d+)")


@dataclass(frozen=True)
class Block:
    """Neighbouring lines of one kind. What differs in them has its white space as signs."""

    kind: Literal["gone", "new", "same"]
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class _Hunk:
    """Lines that are gone, those in their place, and those after them that both have; each as one text.

    `line`: how many lines the template that is gone has before them.
    """

    gone: str
    new: str
    same: str
    line: int


def blocks(difference: Sequence[str]) -> list[Block]:
    """Return the lines of a unified difference in blocks."""
    found: list[Block] = []
    for one in _hunks(difference):
        gone, new = one.gone, one.new
        if gone:
            found.append(Block("gone", _shown(marked(new, gone, _WORD), whole=not new and bool(gone.strip()))))
        if new:
            found.append(Block("new", _shown(marked(gone, new, _WORD), whole=not gone and bool(new.strip()))))
        if one.same:
            found.append(Block("same", (Piece(one.same, differs=False),)))
    return found


def example_blocks(example: Example) -> list[Block]:
    """Return what two templates make of a conversation, before and after; a refusal is said in words."""
    before, after = ("(refused)" if text is None else text for text in (example.before, example.after))
    return [
        Block("gone", _shown(marked(after, before, _WORD), whole=False)),
        Block("new", _shown(marked(before, after, _WORD), whole=False)),
    ]


def in_words(difference: Sequence[str], before: Sequence[str]) -> str:
    """Return what differs, and where, as a sentence's end: `“a” becomes “b” after “c”, in “{% for … %}”`.

    `difference`: lines of a unified difference. `before`: the lines of the template that is gone.
    """
    changes = [change for one in _hunks(difference) if (change := _change(one, before))]
    more = len(changes) - _MOST_NAMED
    rest = [f"{count(more, 'more place')} below"] if more > 0 else []
    return "; ".join([*changes[:_MOST_NAMED], *rest])


def _change(one: _Hunk, before: Sequence[str]) -> str:
    sides = marked(one.new, one.gone, _WORD), marked(one.gone, one.new, _WORD)
    old, now = (" \N{HORIZONTAL ELLIPSIS} ".join(piece.text for piece in side if piece.differs) for side in sides)
    if not old and not now:
        return ""
    place = place_of(_text(before[: one.line]) + _until_it_differs(sides[0] if old else sides[1]))
    return f"{_what(old, now)}{' ' if place else ''}{place}"


def _what(old: str, now: str) -> str:
    old, now = (
        quoted(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}\N{HORIZONTAL ELLIPSIS}") for text in (old, now)
    )
    if now == quoted(""):
        return f"{old} is gone"
    return f"{now} is new" if old == quoted("") else f"{old} becomes {now}"


def _until_it_differs(pieces: Sequence[Piece]) -> str:
    return "" if pieces[0].differs else pieces[0].text


def _hunks(difference: Sequence[str]) -> Iterator[_Hunk]:
    gone: list[str] = []
    new: list[str] = []
    same: list[str] = []
    line = start = 0
    for entry in difference[2:]:  # after the names of the two sides
        header = _HEADER.match(entry)
        sign, text = entry[:1], entry[1:]
        if (header or (same and sign in ("-", "+"))) and (gone or new or same):
            yield _Hunk(_text(gone), _text(new), _text(same), start)
            gone, new, same = [], [], []
        if header:
            line = max(int(header[1]) - 1, 0)
            continue
        if not (gone or new or same):
            start = line
        {"-": gone, "+": new}.get(sign, same).append(text)
        line += sign != "+"
    if gone or new or same:
        yield _Hunk(_text(gone), _text(new), _text(same), start)


def _text(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _shown(pieces: Iterable[Piece], *, whole: bool) -> tuple[Piece, ...]:
    """Make white space visible where it differs; `whole`: all lines are of one side, so that their text is enough."""
    if whole:
        return tuple(pieces)
    return tuple(Piece(visible(one.text), one.differs) if one.differs else one for one in pieces)
