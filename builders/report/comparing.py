"""A bundle next to the one that production has: figures, and sizes by type. What else changed: `changes.py`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from builders.report.content import CellContent, Recorded, Subject
from builders.report.endings import SHARES, Sample, sample_of
from builders.report.noise import is_busy, is_chance
from registry.bundle.manifest import Manifest
from targets.evidence import FAILED_CHECKS, FIGURES, LESS_IS_BETTER, MORE_IS_BETTER, OWN_RUNTIME_FIGURES, Figure
from targets.evidence_details import TextDivergence
from targets.formatting import count, figure, share, signed_figure, signed_size, size

NOTHING = "\N{EN DASH}"


@dataclass(frozen=True)
class FigureRow:
    """A figure of both sides, as text. `better`: None where the two are equal, or none is better by itself.

    `difference`, `relative`, which is (after - before) / before: None where it is no finite number. `kind`: both
    sides' where they are of two kinds. `remark`: why the two are not compared; `change` is then nothing.
    """

    name: str
    title: str
    unit: str
    before: str
    after: str
    change: str
    kind: str
    on: str
    difference: float | None = None
    relative: float | None = None
    better: bool | None = None
    remark: str = ""

    @property
    def word(self) -> str:
        """Better or worse, as a word."""
        return {True: "better", False: "worse", None: ""}[self.better]

    @property
    def is_key(self) -> bool:
        """Whether it is one of the few that every reviewer asks for."""
        return self.name in _KEY


@dataclass(frozen=True)
class StorageRow:
    """Bytes of the weights that are stored in one type."""

    storage: str
    tensors: int | None
    bytes: int
    before_bytes: int | None

    @property
    def change(self) -> str:
        """The difference in bytes, as text."""
        return NOTHING if self.before_bytes is None else signed_size(self.bytes - self.before_bytes)


def figure_rows(cell: CellContent) -> list[FigureRow]:
    """Return every figure of the candidate or the baseline, in the order of `FIGURES`."""
    old, new = _figures(cell.before), _figures(cell.candidate)
    incomparable = _OF_A_TEXT if different_texts(cell) else frozenset()
    if _same_text(cell):
        incomparable -= _OF_ANY_MODEL
    incomparable |= OWN_RUNTIME_FIGURES | {name for name in SHARES if not _same_sample(cell, name)}
    if all(math.isfinite(side[name].value) for side in (old, new) for name in _OF_FEW if name in side):
        incomparable |= _OF_FEW
    names = [name for name in FIGURES if name in old or name in new]
    names += sorted((old.keys() | new.keys()) - set(FIGURES))
    for name in old.keys() & new.keys():
        if _other_sample(cell, name) or is_chance(cell, name, old[name].value, new[name].value):
            incomparable |= {name}
    rows = [_figure_row(name, old.get(name), new.get(name), compare=name not in incomparable) for name in names]
    return [_with_remarks(cell, row) for row in rows]


def _with_remarks(cell: CellContent, row: FigureRow) -> FigureRow:
    """Add of how many answers a share is, and why a figure is compared with nothing, such as one of another phone."""
    found = replace(row, title=f"{row.title}{_sample_in_words(cell, row.name)}")
    if row.name in _OF_READING:
        return replace(found, change=NOTHING, remark=_READING)
    if (why := _other_sample(cell, row.name)) and row.difference is not None:
        return replace(found, change=NOTHING, remark=f"not comparable: {why}")
    if row.difference is None or not any(is_busy(side, row.name) for side in (cell.before, cell.candidate)):
        return found
    return replace(found, change=NOTHING, remark="this machine, busy: not comparable")


_KEY = frozenset(
    (
        *("kl_mean", "worst_text_kl_mean", "same_top_share", "perplexity_ratio", "reference_perplexity"),
        *("artifact_bytes", "device_decode_tokens_per_second"),
    )
)
_TRIFLE = 0.001  # of a size or a speed: neither better nor worse
# They compare phipack's float32 model with transformers' one, both of the first layers of one checkpoint.
_OF_READING = frozenset(("reference_difference", "reference_state_difference"))
_READING = "how exactly phipack reads a checkpoint: no measure of its quality"
# A maximum and an error say how the sample fell; the host's speed says how busy it was.
_OF_FEW = frozenset(("kl_max", "kl_standard_error"))


# Taken on the evaluation's own text, which the evidence names, on answers that are counted, or on no sample.
_OF_NO_OTHER_SAMPLE = frozenset(
    (
        *("kl_mean", "kl_standard_error", "kl_median", "kl_p99", "kl_max", "same_top_share", "perplexity"),
        *("reference_perplexity", "perplexity_ratio", "greedy_match_share", "runtime_tokens_share", "artifact_bytes"),
        *SHARES,
        FAILED_CHECKS,
    )
)


def _other_sample(cell: CellContent, name: str) -> str:
    """Return on what a figure was taken on each side, where that is not the same: other tokens, prompts or phones."""
    sides = [_figures(side).get(name) for side in (cell.before, cell.candidate)]
    if None in sides or name in _OF_NO_OTHER_SAMPLE or name not in MORE_IS_BETTER | LESS_IS_BETTER:
        return ""
    old, new = (_texts(side) for side in (cell.before, cell.candidate))
    unlike = {text for text in old.keys() & new.keys() if not _same_tokens(old[text], new[text])}
    if name == "worst_text_kl_mean":
        return "of other texts" if old and new and (unlike or old.keys() != new.keys()) else ""
    if name.removesuffix("_kl_mean") in unlike:
        return "other tokens, or at other positions"
    on = ["" if side is None else side.on.partition(",")[0] for side in sides]
    return f"{on[0]}, then {on[1]}" if on[0] != on[1] else ""


def _texts(side: Subject | Recorded | None) -> dict[str, TextDivergence]:
    details = None if side is None else side.details
    return {} if details is None else {one.text: one for one in details.texts}


def _same_tokens(old: TextDivergence, new: TextDivergence) -> bool:
    """Return whether both have read the same tokens at the same positions; of older evidence, whether as many."""
    if old.prediction is None or new.prediction is None:
        return old.tokens == new.tokens
    return old.prediction.digest == new.prediction.digest


def _samples(cell: CellContent, name: str) -> tuple[Sample | None, Sample | None]:
    old = None if cell.before is None else cell.before.details
    return sample_of(old, name), sample_of(cell.candidate.details, name)


def _same_sample(cell: CellContent, name: str) -> bool:
    """Return whether a share of answers is of as many on both sides and, for their ends, with room to end."""
    old, new = _samples(cell, name)
    if old is None or new is None or name != "endless_share":
        return (old and old.answers) == (new and new.answers)
    return old.answers == new.answers and old.has_room and new.has_room


def _sample_in_words(cell: CellContent, name: str) -> str:
    """Return of how many answers a share is, and with which limit; empty for other figures."""
    if name.removeprefix("reference_") not in SHARES:
        return ""
    old, new = _samples(cell, name)
    if old is None or old == new:
        return f", {new}" if new else ""
    return f", {old}, then {new or 'of a number that is not known'}"


# They depend on what was read, and on the checkpoint that it is compared with.
_OF_A_TEXT = frozenset(
    name
    for name, (unit, _) in FIGURES.items()
    if unit == "nat" or "perplexity" in name or name.endswith("same_top_share") or name == "greedy_match_share"
)


_OF_ANY_MODEL = frozenset(("perplexity", "reference_perplexity"))


def _same_text(cell: CellContent) -> bool:
    new, old = cell.candidate.evidence, None if cell.before is None else cell.before.evidence
    return old is not None and new is not None and old.text == new.text


def different_texts(cell: CellContent) -> str:
    """Return why divergences and perplexities of the two sides can't be compared; empty where they can be."""
    new = cell.candidate.evidence
    old = None if cell.before is None else cell.before.evidence
    if old is None or new is None:
        return ""
    if old.checkpoint != new.checkpoint:
        return "compare each with a checkpoint of its own"
    return "" if old.text == new.text else "were taken on different tokens"


def figure_title(name: str) -> str:
    """Return what a figure means, from the list of figures."""
    return FIGURES[name][1] if name in FIGURES else name.replace("_", " ")


def _figures(subject: Subject | Recorded | None) -> dict[str, Figure]:
    return {} if subject is None or subject.evidence is None else dict(subject.evidence.figures)


def _figure_row(name: str, old: Figure | None, new: Figure | None, *, compare: bool) -> FigureRow:
    there = new or old
    assert there is not None
    difference = relative = better = None
    if old is not None and new is not None:
        if math.isfinite(new.value - old.value):
            difference = new.value - old.value
            relative = difference / abs(old.value) if old.value else None
        trifle = there.unit in ("B", "token/s") and relative is not None and abs(relative) < _TRIFLE
        if compare and not trifle and new.value != old.value and name in MORE_IS_BETTER | LESS_IS_BETTER:
            better = (new.value > old.value) == (name in MORE_IS_BETTER)
    return FigureRow(
        name,
        figure_title(name),
        there.unit,
        figure(name, None if old is None else old.value, there.unit),
        figure(name, None if new is None else new.value, there.unit),
        NOTHING if difference is None else signed_figure(name, difference, there.unit),
        there.kind if old is None or old.kind == there.kind else f"{old.kind}, then {there.kind}",
        there.on,
        difference,
        relative,
        better,
    )


def figures_in_short(rows: Sequence[FigureRow]) -> str:
    """Return how many figures are better, worse, the same, and not to be compared."""
    better, worse = (sum(row.better is wanted for row in rows) for wanted in (True, False))
    same = sum(row.better is None and row.difference == 0 and not row.remark for row in rows)
    rest = len(rows) - better - worse - same
    others = f", {rest} not judged (chance, or not comparable)" if rest else ""
    return f"{count(len(rows), 'figure')}: {better} better, {worse} worse, {same} the same{others}."


def storage_rows(cell: CellContent) -> list[StorageRow]:
    """Return the bytes of weights by the type that they are stored in, the largest first; last what else there is."""
    new = _storage(cell.candidate.manifest)
    old = None if cell.baseline is None else _storage(cell.baseline.manifest)
    names = list(dict.fromkeys((*new, *(old or {}))))
    rows = [
        StorageRow(
            name,
            new[name][0] if name in new else 0,
            new[name][1] if name in new else 0,
            None if old is None else old.get(name, (0, 0))[1],
        )
        for name in names
    ]
    return sorted(rows, key=lambda row: (row.storage == _OTHER, -row.bytes))


_OTHER = "other files"


def _storage(manifest: Manifest) -> dict[str, tuple[int | None, int]]:
    found: dict[str, tuple[int | None, int]] = {
        one.storage: (one.tensors, one.bytes) for one in manifest.recipe.weights
    }
    rest = manifest.total_bytes - sum(one.bytes for one in manifest.recipe.weights)
    return found | {_OTHER: (None, max(rest, 0))}


def size_sentence(cell: CellContent) -> str:
    """Return the size, and how it compares with the baseline's."""
    new = cell.candidate.manifest.total_bytes
    if cell.baseline is None:
        return size(new)
    old = cell.baseline.manifest.total_bytes
    return f"{size(new)} ({signed_size(new - old)}, {share((new - old) / old)})" if old else size(new)
