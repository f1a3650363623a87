"""The tables by text, by position and by kind of token, with the perplexity of both bundles."""

from __future__ import annotations

from dataclasses import dataclass

from builders.report.content import CellContent
from builders.report.predictions import By, not_comparable, parts_of, perplexity, where
from targets.evidence_details import Divergence
from targets.formatting import figure

NOTHING = "\N{EN DASH}"
_UNKNOWN = "not recorded"


@dataclass(frozen=True)
class BreakdownRow:
    """One part of what was read. `perplexity`: the bundle's, `before`: that of production's, or why there is none."""

    label: str
    part: Divergence
    perplexity: str
    before: str


def breakdown_rows(cell: CellContent, by: By) -> list[BreakdownRow]:
    """Return a row for each part of the candidate's evidence."""
    old = parts_of(cell.before, by)
    return [_row(cell, label, part, old.get(label)) for label, part in parts_of(cell.candidate, by).items()]


def _row(cell: CellContent, label: str, part: Divergence, old: Divergence | None) -> BreakdownRow:
    special = f", {where(part)}" if where(part) else ""
    mine = perplexity(cell.candidate, part, of_reference=False)
    return BreakdownRow(f"{label}{special}", part, _UNKNOWN if mine is None else _shown(mine), _before(cell, part, old))


def _before(cell: CellContent, part: Divergence, old: Divergence | None) -> str:
    if old is None or cell.before is None:
        return NOTHING
    found = perplexity(cell.before, old, of_reference=False)
    if found is None:
        return _UNKNOWN
    why = not_comparable(cell, part, old)
    return f"{_shown(found)}, {why}" if why else _shown(found)


def in_words(cell: CellContent, by: By) -> str:
    """Return the perplexities of both sides as a sentence, for who hears the drawing; empty where none is recorded."""
    rows = [row for row in breakdown_rows(cell, by) if row.perplexity != _UNKNOWN]
    if not rows:
        return ""
    mine = ", ".join(f"{row.label} {row.perplexity}" for row in rows)
    said = f"Perplexity, which has no unit: {mine}"
    if cell.before is None:
        return f"{said}."
    before = ", ".join(f"{row.label} {row.before}" for row in rows if row.before != NOTHING)
    return f"{said}. That of {cell.before.name}: {before or _UNKNOWN}."


def _shown(value: float) -> str:
    return figure("perplexity", value)
