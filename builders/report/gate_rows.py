"""Gates with the text that each one reads, and the text that is worst by the same figure.

A gate on `kl_mean` bounds one text. The others are measured, too, and no gate need bound them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from builders.report.content import CellContent
from builders.report.finding import Finding
from builders.report.noise import SIGMAS
from targets.evidence import Evidence
from targets.evidence_details import TextDivergence
from targets.formatting import bound, count, figure
from targets.gates import GateResult

_BY_TEXT = ("kl_mean", "same_top_share", "perplexity_ratio")  # figures that each text has
_MORE_IS_BETTER = "same_top_share"


@dataclass(frozen=True)
class GateRow:
    """One gate. `read_on`: what its figure was taken on, in short; `worst`: the worst text by it, as text.

    `outside`: the texts that are outside the bound, the worst first; none of a figure that texts do not have.
    `certain`: those of them that are so by more than what their few tokens explain.
    """

    gate: GateResult
    read_on: str
    worst: str
    outside: tuple[str, ...] = ()
    certain: tuple[str, ...] = ()


def gate_rows(evidence: Evidence | None) -> list[GateRow]:
    """Return a row for each gate, failed ones first."""
    if evidence is None:
        return []
    return [_row(evidence, gate) for gate in sorted(evidence.gates, key=lambda one: one.passed)]


def of_single_texts(cell: CellContent) -> Iterator[Finding]:
    """Yield that single texts are outside the bounds of gates which pass, as they read another text or an average."""
    found = [row for row in gate_rows(cell.candidate.evidence) if row.gate.passed and row.certain]
    if not found:
        return
    before = {} if cell.before is None else {row.gate.figure: row for row in gate_rows(cell.before.evidence)}
    names = [row.gate.figure for row in found]
    known = all(
        name in before and len(row.certain) <= len(before[name].outside) for name, row in zip(names, found, strict=True)
    )
    said = "; ".join(f"{_gate_in_words(row)}: {', '.join(row.certain)}" for row in found)
    as_before = f" {cell.before.name} has as many outside." if known and cell.before is not None else ""
    subject = "A gate passes on what it reads" if len(found) == 1 else "Gates pass on what they read"
    text = f"{subject}, and single texts are outside: {said}.{as_before}"
    yield Finding("note" if known else "look", text, "gates")


def _gate_in_words(row: GateRow) -> str:
    return f"{row.gate.figure}, {bound(row.gate.figure, row.gate.bound)}, reads {row.read_on}"


def _row(evidence: Evidence, gate: GateResult) -> GateRow:
    taken = evidence.figures.get(gate.figure)
    on = "\N{EN DASH}" if taken is None else taken.on.partition(",")[0]
    texts = () if evidence.details is None else evidence.details.texts
    if gate.figure == "worst_text_kl_mean" and texts:
        on = f"the worst of {count(len(texts), 'text')}"
        return GateRow(gate, on, _in_words("kl_mean", _worst_first("kl_mean", texts)[0]))
    if gate.figure not in _BY_TEXT or len(texts) < 2:
        return GateRow(gate, on, "\N{EN DASH}")
    ordered = _worst_first(gate.figure, texts)
    outside = [one for one in ordered if not gate.allows(_value(gate.figure, one))]
    certain = [one for one in outside if not gate.allows(_nearest(gate.figure, one))]
    said, sure = (tuple(_in_words(gate.figure, one) for one in ones) for ones in (outside, certain))
    return GateRow(gate, on, _in_words(gate.figure, ordered[0]), said, sure)


def _worst_first(name: str, texts: tuple[TextDivergence, ...]) -> list[TextDivergence]:
    return sorted(texts, key=lambda one: _value(name, one), reverse=name != _MORE_IS_BETTER)


def _value(name: str, one: TextDivergence) -> float:
    return float(getattr(one, name))


def _nearest(name: str, one: TextDivergence) -> float:
    """Return the better end of the value's 95 % interval; of a ratio of perplexities none is known."""
    if name == "kl_mean":
        return one.kl_mean - SIGMAS * one.kl_standard_error
    if name == _MORE_IS_BETTER:
        share = one.same_top_share
        return share + SIGMAS * math.sqrt(share * (1 - share) / one.tokens)
    return _value(name, one)


def _in_words(name: str, one: TextDivergence) -> str:
    return f"{one.text} {figure(name, _value(name, one))}"
