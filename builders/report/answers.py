"""Answers in three columns, float32, baseline and candidate: the words that differ from float32's are marked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher

from builders.report.content import CellContent, side_name
from builders.report.endings import goes_on, limit_of
from builders.report.white_space import visible_ends
from targets.evidence_details import Answer, Details
from targets.formatting import count

_WORD = re.compile(r"\s+|\w+|[^\w\s]+")
_LONGEST = 4000  # characters of an answer that are shown and compared


@dataclass(frozen=True)
class Piece:
    """A part of an answer; `differs`: float32's answer does not have it there."""

    text: str
    differs: bool


@dataclass(frozen=True)
class ShownAnswer:
    """One side's answer. `note`: in words how it compares with float32's; empty for float32's own.

    `end`: in words how it ends; empty for one that a stop id ended.
    """

    pieces: tuple[Piece, ...]
    note: str
    end: str


@dataclass(frozen=True)
class AnswerRow:
    """One prompt with the answers to it. `baseline`: None where the baseline was not asked this.

    `against_baseline`: with another checkpoint, in words whether the candidate's answer is the baseline's: its float32
    is another one, too, so that being the same as that says nothing of it. Else empty.
    """

    prompt: str
    reference: ShownAnswer
    baseline: ShownAnswer | None
    candidate: ShownAnswer
    against_baseline: str = ""
    is_changed: bool = False

    @property
    def notes(self) -> str:
        """What is said of the candidate's answer next to the prompt."""
        return "; ".join(filter(None, (self.against_baseline, self.candidate.note, self.candidate.end)))

    @property
    def differs(self) -> bool:
        """True where the candidate's answer is another than float32's."""
        return any(piece.differs for piece in self.candidate.pieces) or self.candidate.note != SAME


SAME = "the same as float32's"


def same_as_before(cell: CellContent) -> int | None:
    """Return how many answers are word for word the baseline's; None where it was asked none of the prompts."""
    details, before = cell.candidate.details, None if cell.before is None else cell.before.details
    old = {} if before is None else {answer.prompt: answer.bundle for answer in before.answers}
    both = [] if details is None else [one for one in details.answers if one.prompt in old]
    return sum(one.bundle == old[one.prompt] for one in both) if both else None


def answer_rows(cell: CellContent) -> list[AnswerRow]:
    """Return a row for each prompt of the candidate, those that differ soonest first.

    With another checkpoint, those that are not the baseline's come before all others.
    """
    details = cell.candidate.details
    before = None if cell.before is None else cell.before.details
    other = {} if before is None else {answer.prompt: answer for answer in before.answers}
    answers = () if details is None else details.answers
    ordered = sorted(answers, key=lambda one: (one.first_difference is None, one.first_difference or 0))
    rows = [
        AnswerRow(
            one.prompt,
            ShownAnswer(_plain(one.reference), "", _end_of_float32(one, other, details)),
            _of_baseline(other[one.prompt], before, one.reference) if one.prompt in other else None,
            _compared(one, details, other.get(one.prompt)),
            *_against_baseline(cell, one, other.get(one.prompt)),
        )
        for one in ordered
    ]
    return sorted(rows, key=lambda row: not row.is_changed)


def _against_baseline(cell: CellContent, answer: Answer, old: Answer | None) -> tuple[str, bool]:
    """Return whether an answer is the baseline's, in words and as a fact; nothing with the same checkpoint."""
    if old is None or cell.before is None or not cell.has_other_reference:
        return "", False
    is_changed = answer.bundle != old.bundle
    name = side_name(cell.before)
    return (f"another answer than {name}'s" if is_changed else f"{name}'s answer"), is_changed


def _end_of_float32(answer: Answer, before: dict[str, Answer], details: Details | None) -> str:
    old = before.get(answer.prompt)
    if old and goes_on(answer.reference, answer.reference_ended, old.reference, old.reference_ended):
        return "goes on where it ended for the baseline's checkpoint"
    return "" if answer.reference_ended else _cut_off(details)


def _end(answer: Answer, details: Details | None, old: Answer | None) -> str:
    if goes_on(answer.bundle, answer.bundle_ended, answer.reference, answer.reference_ended):
        return "goes on where float32's ends"
    if old and goes_on(answer.bundle, answer.bundle_ended, old.bundle, old.bundle_ended):
        return "goes on where the baseline's ends"
    return "" if answer.bundle_ended else _cut_off(details)


def _cut_off(details: Details | None) -> str:
    limit = None if details is None else limit_of(details)
    return "cut by the limit of tokens" if limit is None else f"cut at {count(limit, 'token')}"


def _compared(answer: Answer, details: Details | None, old: Answer | None = None) -> ShownAnswer:
    end = _end(answer, details, old)
    if answer.first_difference is None and answer.bundle == answer.reference:
        return ShownAnswer(_plain(answer.bundle), SAME, end)
    pieces = _ends_shown(marked(shortened(answer.reference), shortened(answer.bundle)))
    return ShownAnswer(pieces, f"differs from float32's{_where(answer.first_difference)}", end)


def _plain(text: str) -> tuple[Piece, ...]:
    return _ends_shown((Piece(shortened(text), differs=False),))


def _of_baseline(answer: Answer, details: Details | None, reference: str) -> ShownAnswer:
    """Return the baseline's answer, which is compared with its own checkpoint's: that need not be `reference`."""
    found = _compared(answer, details)
    if answer.reference == reference:
        return found
    return replace(found, note=found.note.replace("float32's", "its own checkpoint's in float32"))


def _ends_shown(pieces: Sequence[Piece]) -> tuple[Piece, ...]:
    texts = visible_ends([one.text for one in pieces])
    return tuple(Piece(text, one.differs) for text, one in zip(texts, pieces, strict=True))


def _where(first_difference: int | None) -> str:
    if first_difference is None:
        return ""
    return f" after {count(first_difference, 'token')}" if first_difference else " from its first token on"


def marked(reference: str, text: str, words: re.Pattern[str] = _WORD) -> tuple[Piece, ...]:
    """Return a text in pieces, by what of it the reference has in the same order, word by word."""
    old, new = words.findall(reference), words.findall(text)
    pieces: list[Piece] = []
    for kind, _, _, start, end in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if start != end:
            pieces.append(Piece("".join(new[start:end]), differs=kind != "equal"))
    return _joined(pieces)


def _joined(pieces: Sequence[Piece]) -> tuple[Piece, ...]:
    """Join neighbours of one kind; white space alone between two that differ differs too, so that marks are whole."""
    found: list[Piece] = []
    for place, piece in enumerate(pieces):
        between = 0 < place < len(pieces) - 1 and not piece.text.strip()
        differs = piece.differs or (between and pieces[place - 1].differs and pieces[place + 1].differs)
        if found and found[-1].differs == differs:
            found[-1] = Piece(found[-1].text + piece.text, differs)
        else:
            found.append(Piece(piece.text, differs))
    return tuple(found)


def shortened(text: str) -> str:
    """Return as much of an answer as is shown and compared."""
    return text if len(text) <= _LONGEST else text[:_LONGEST] + " …"
