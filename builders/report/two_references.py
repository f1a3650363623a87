"""The two checkpoints next to each other in float32, from what evidence of both keeps: nothing is computed again.

Each bundle is compared with its own checkpoint. Where production was made from other weights, this alone says whether
the new ones answer worse: perplexities on the same tokens, answers to the same prompts, tasks and refusals.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from builders.report.answers import Piece, marked, shortened
from builders.report.content import CellContent
from builders.report.noise import SIGMAS
from builders.report.predictions import (
    TOO_FEW,
    By,
    Ratio,
    is_own_text,
    not_comparable,
    parts_of,
    perplexity,
    ratio,
    where,
)
from builders.report.refusals import before as refused_before
from builders.report.white_space import visible_ends
from targets.evidence_details import Answer, Divergence
from targets.formatting import figure, share

NOTHING = "\N{EN DASH}"
_MORE: dict[By, str] = {"texts": "text", "classes": "kind of token", "positions": "range of positions"}


@dataclass(frozen=True)
class ReferenceRow:
    """Float32's perplexity on one part of what was read, on both sides, as text. `remark`: why there is no change.

    `tokens`: of the candidate's.
    """

    part: str
    before: str
    after: str
    ratio: Ratio | None
    remark: str
    tokens: int

    @property
    def change(self) -> str:
        """The change in percent."""
        return NOTHING if self.ratio is None else "0 %" if self.ratio.is_same else _percent(self.ratio.value)

    @property
    def interval(self) -> str:
        """The change's 95 % interval, in percent."""
        return NOTHING if self.ratio is None else interval(self.ratio)

    @property
    def word(self) -> str:
        """What is sure of the change."""
        return self.remark if self.ratio is None else self.ratio.word or "no interval: not recorded"


def interval(found: Ratio) -> str:
    """Return an interval in percent; a dash where there is none, and where both perplexities are the same."""
    if found.high == math.inf:
        return NOTHING
    if found.is_same:
        return NOTHING
    return NOTHING if found.low is None or found.high is None else f"{_percent(found.low)} to {_percent(found.high)}"


def _percent(value: float) -> str:
    change = 100 * (value - 1)
    return f"{change:+.1f} %" if abs(change) < 1000 else f"\N{MULTIPLICATION SIGN} {value:.3g}"


def reference_rows(cell: CellContent, by: By) -> list[ReferenceRow]:
    """Return float32's perplexity on each part of both sides; nothing where neither checkpoint's is recorded."""
    if cell.before is None:
        return []
    old = parts_of(cell.before, by)
    rows = [_row(cell, label, part, old.get(label)) for label, part in parts_of(cell.candidate, by).items()]
    return rows if any(row.before != NOTHING or row.after != NOTHING for row in rows) else []


def _row(cell: CellContent, label: str, new: Divergence, old: Divergence | None) -> ReferenceRow:
    assert cell.before is not None
    special = f", {where(new)}" if where(new) else ""
    found = ratio(cell, new, old)
    remark = "" if found is not None else not_comparable(cell, new, old) or "not comparable"
    before = None if old is None else perplexity(cell.before, old, of_reference=True)
    after = perplexity(cell.candidate, new, of_reference=True)
    return ReferenceRow(f"{label}{special}", _shown(before), _shown(after), found, remark, new.tokens)


def _shown(value: float | None) -> str:
    return NOTHING if value is None else figure("reference_perplexity", value)


def in_short(cell: CellContent, by: By) -> str:
    """Return how many parts are surely worse, surely better, the same or may be chance, with the worst and the best."""
    rows = reference_rows(cell, by)
    known = [row for row in rows if row.ratio is not None]
    if not known:
        why = ", ".join(dict.fromkeys(row.remark for row in rows if row.remark)) or "not recorded"
        return f"By {_MORE[by]}: {why}."
    words = ("worse", "better", "may be chance", TOO_FEW, "same", "")
    shown = {
        "may be chance": "within chance",
        TOO_FEW: "of too few tokens",
        "same": "the same",
        "": "without an interval",
    }
    counts = [(word, [row for row in known if row.ratio is not None and row.ratio.word == word]) for word in words]
    parts = [f"{len(found)} {shown.get(word, word)}{_named(word, found)}" for word, found in counts if found]
    rest = len(rows) - len(known)
    return f"By {_MORE[by]}: {', '.join(parts)}{f', {rest} not comparable' if rest else ''}."


def predicts_the_same(cell: CellContent) -> bool:
    """Return whether all texts that both checkpoints have read the same tokens of are predicted alike in float32."""
    known = [row.ratio for row in reference_rows(cell, "texts") if row.ratio is not None]
    return len(known) > 1 and all(one.is_same for one in known)


def net_change(cell: CellContent) -> str:
    """Return the change over all tokens of each text, with what is sure of it, the evaluation's own text first."""
    own = {name for name, part in parts_of(cell.candidate, "texts").items() if is_own_text(cell.candidate, part)}
    known = [row for row in reference_rows(cell, "texts") if row.ratio is not None]
    groups: dict[str, list[str]] = {}
    for row in sorted(known, key=lambda row: row.part not in own):
        word = {"may be chance": "within chance", "": "without an interval"}.get(row.word, row.word)
        name = f"{row.part} (the evaluation's own)" if row.part in own else row.part
        groups.setdefault(word, []).append(f"{name} {row.change}")
    return "; ".join(f"{word}: {', '.join(found)}" for word, found in groups.items()) or "none can be compared"


def _named(word: str, rows: Sequence[ReferenceRow]) -> str:
    if word not in ("worse", "better"):
        return ""
    ordered = sorted(rows, key=lambda row: 0.0 if row.ratio is None else row.ratio.value, reverse=word == "worse")
    return f" ({', '.join(f'{row.part} {row.change}' for row in ordered[:3])}{', …' if len(ordered) > 3 else ''})"


@dataclass(frozen=True)
class ReferenceAnswer:
    """One prompt answered by both checkpoints in float32. `pieces`: the candidate's, with what differs marked."""

    prompt: str
    before: tuple[Piece, ...]
    pieces: tuple[Piece, ...]
    note: str

    @property
    def differs(self) -> bool:
        """Whether the two say something else."""
        return self.note.startswith("differs")


def reference_answers(cell: CellContent) -> list[ReferenceAnswer]:
    """Return the prompts that both were asked, those with different answers first."""
    old, new = None if cell.before is None else cell.before.details, cell.candidate.details
    if old is None or new is None:
        return []
    asked = {one.prompt: one for one in old.answers}
    found = [_answer(asked[one.prompt], one) for one in new.answers if one.prompt in asked]
    return sorted(found, key=lambda one: not one.differs)


def _answer(old: Answer, new: Answer) -> ReferenceAnswer:
    text = _visible(marked(shortened(old.reference), shortened(new.reference)))
    before = _visible((Piece(shortened(old.reference), differs=False),))
    return ReferenceAnswer(new.prompt, before, text, _note(old, new))


def _note(old: Answer, new: Answer) -> str:
    if (old.reference, old.reference_ended) == (new.reference, new.reference_ended):
        return "the same"
    cut = [one.reference for one in (old, new) if not one.reference_ended]
    whole = (old.reference, new.reference)
    if cut and all(text.startswith(min(cut, key=len)) for text in whole):
        return "the same as far as both go"
    return "differs from its first word on" if _begins_otherwise(*whole) else "differs"


def _begins_otherwise(old: str, new: str) -> bool:
    return old.split(maxsplit=1)[:1] != new.split(maxsplit=1)[:1]


def _visible(pieces: Sequence[Piece]) -> tuple[Piece, ...]:
    texts = visible_ends([one.text for one in pieces])
    return tuple(Piece(text, one.differs) for text, one in zip(texts, pieces, strict=True))


@dataclass(frozen=True)
class ScoreRow:
    """A share that float32 reached on both sides, as text."""

    name: str
    before: str
    after: str
    change: str
    word: str


def score_rows(cell: CellContent) -> list[ScoreRow]:
    """Return accuracies on tasks and refusals of both checkpoints in float32, where both were asked as much."""
    old, new = None if cell.before is None else cell.before.details, cell.candidate.details
    if old is None or new is None:
        return []
    tasks = {(one.task, one.kind, one.questions, one.left_out): one for one in old.tasks}
    rows = [
        _score(f"{one.task}, right", before.reference_accuracy, one.reference_accuracy, one.questions)
        for one in new.tasks
        if (before := tasks.get((one.task, one.kind, one.questions, one.left_out)))
    ]
    for one in new.safety:
        if known := refused_before(cell, one):
            refused = known.reference_refusals / one.count, one.reference_refusals / one.count
            rows.append(_score(f"{one.prompts}, refused", *refused, one.count))
    return rows


def _score(name: str, before: float, after: float, asked: int) -> ScoreRow:
    middle = (before + after) / 2
    is_chance = abs(after - before) <= SIGMAS * math.sqrt(max(2 * middle * (1 - middle), 0) / asked)
    word = "same" if before == after else "may be chance" if is_chance else "differs"
    change = f"{100 * (after - before):+.1f} points"
    return ScoreRow(f"{name}, of {asked:,}", share(before), share(after), change, word)
