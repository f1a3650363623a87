"""A checkpoint that answers worse in float32 than production's: no gate compares the two."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from builders.report.comparing import FigureRow, figure_rows
from builders.report.content import CellContent
from builders.report.finding import Finding
from builders.report.layers import has_same_weights
from builders.report.predictions import BREAKDOWNS
from builders.report.reach import is_reach_known, reach_in_words
from builders.report.same_files import files_that_differ
from builders.report.two_references import ReferenceRow, net_change, reference_rows

# On the model of 135M that reviewers are shown, 4-bit weights cost 1.6 % (gguf-q4_k_m) to 14 % (coreml-int4): a float32
# checkpoint that loses a tenth has lost as much as a rough recipe. The broken one there lost 428 %. From 3 % on it is
# to be looked at: training on other texts may cost that, and be wanted.
_PERPLEXITY_DEFECT = 0.10
_PERPLEXITY_OF_SAME_WEIGHTS = 0.005  # float32's own, on the same tokens: nothing but the configuration can change it
# One part of what was read may lose more, and the training be sound: a checkpoint trained on quiz turns lost 22 % on
# punctuation (surely 17 %). Where two digits were exchanged, digits lost 119 % (surely 28 %).
_PART_DEFECT = 0.25
_SURELY = 1.03  # of a text, a kind of token or a range of positions: by as much its perplexity is surely higher
_MOST_NAMED = 3


def of_worse_reference(cell: CellContent, name: str) -> Iterator[Finding]:
    """Yield that float32 itself predicts production's text worse, or a part of what was read."""
    row = next((one for one in figure_rows(cell) if is_worse_reference(cell, one)), None)
    if row is None:
        yield from _of_parts(cell, name)
        return
    if cell.baseline is not None and has_same_weights(cell):
        old, new = cell.baseline.manifest, cell.candidate.manifest
        text = (
            f"The weights are those of {name}, and float32 predicts the same text worse with them: its perplexity is"
            f" {row.after}, and was {row.before}. The checkpoint's configuration is another one"
            f" ({', '.join(files_that_differ(old, new))}): {reach_in_words(cell) or _unseen(cell)}."
        )
    else:
        text = (
            f"The checkpoint itself is worse than that of {name}, whatever was built from it: on the same text its"
            f" perplexity in float32 is {row.after}, and {row.before} for that one. Each check and"
            f" divergence compares with this worse checkpoint.{_or_configuration(cell)}"
        )
    yield Finding("defect", text, "float32" if cell.has_other_reference else "baseline")


def _or_configuration(cell: CellContent) -> str:
    """Return that the configuration may be the reason, where it is another and the weights can't be compared."""
    changed = "" if cell.layers is not None else reach_in_words(cell)
    if not changed:
        return ""
    return f" Its configuration is another one ({changed}); whether its weights are others is not known."


def _unseen(cell: CellContent) -> str:
    return "neither its window nor its rope" if is_reach_known(cell) else "such as its window or its rope"


def _of_parts(cell: CellContent, name: str) -> Iterator[Finding]:
    """Yield what the checkpoint surely predicts worse, where all of its own text is not: averages hide it."""
    worse = worse_parts(cell)
    if not worse:
        return
    is_defect = _low(worse[0]) > 1 + _PART_DEFECT
    usual = "" if is_defect else f" {_whether_usual(cell)}"
    better = _listed(_better_parts(cell)) or "nothing"
    text = (
        f"Perplexity of the new checkpoint in float32, next to that of {name} on the same tokens, where more is worse."
        f" Surely worse by more than 3 %: {_listed(worse)}. Surely better: {better}. Whole texts: {net_change(cell)}."
        f"{usual} No check, gate or divergence compares the two checkpoints."
    )
    yield Finding("defect" if is_defect else "look", text, "float32")


def _listed(rows: Sequence[ReferenceRow]) -> str:
    said = "; ".join(f"{row.part} {row.change} ({row.interval})" for row in rows[:_MOST_NAMED])
    return f"{said}, and {len(rows) - _MOST_NAMED} more" if len(rows) > _MOST_NAMED else said


def _whether_usual(cell: CellContent) -> str:
    """Return whether it looks like training on other text: that gains somewhere, and loses on what it did not read.

    A part of too few tokens for an interval says nothing.
    """
    known = [row.ratio for row in _parts(cell) if row.ratio is not None and row.ratio.high != math.inf]
    if any(one.value < 1 / _SURELY for one in known):
        return (
            "Training on other text usually gains in one place and loses in another, as here. That is no proof: ask"
            " what it was trained for."
        )
    return "Nothing with an interval is better by more than 3 %, as something usually is after training on other text."


def _parts(cell: CellContent) -> list[ReferenceRow]:
    return [row for by in BREAKDOWNS for row in reference_rows(cell, by)] if cell.has_other_reference else []


def _better_parts(cell: CellContent) -> list[ReferenceRow]:
    """Return what the new checkpoint surely predicts better, the best first."""
    found = [(row.ratio.value, row) for row in _parts(cell) if row.ratio is not None and row.ratio.word == "better"]
    return [row for _, row in sorted(found, key=lambda one: one[0])]


def worse_parts(cell: CellContent) -> list[ReferenceRow]:
    """Return texts, kinds of token and positions that the new checkpoint surely predicts worse, the worst first."""
    found = [(low, row) for row in _parts(cell) if (low := _low(row)) > _SURELY]
    return [row for _, row in sorted(found, key=lambda one: -one[0])]


def _low(row: ReferenceRow) -> float:
    return 0.0 if row.ratio is None or row.ratio.low is None else row.ratio.low


def is_worse_reference(cell: CellContent, row: FigureRow) -> bool:
    """Return whether a figure is float32's own perplexity, and so much worse that it is a defect."""
    if row.name != "reference_perplexity" or row.better is not False:
        return False
    most = _PERPLEXITY_OF_SAME_WEIGHTS if has_same_weights(cell) else _PERPLEXITY_DEFECT
    return row.relative is None or row.relative > most
