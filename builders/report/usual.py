"""What a recipe's divergence has been in this registry: a figure alone does not say whether it is usual.

Figures of other models are no measure of this one. So only releases of the same model by the same recipe count, that
passed their gates, and whose evidence read the same text; where there are none, that is said.
"""

from __future__ import annotations

from builders.report.content import CellContent, Earlier, Recorded, Subject
from builders.report.recipes import recipe_of, recipe_on
from targets.formatting import figure

_MOST_NAMED = 3


def usual(cell: CellContent) -> str:
    """Return what earlier releases had, as a sentence; empty where nobody has looked for them."""
    mine = cell.candidate.evidence
    if mine is None or "kl_mean" not in mine.figures:
        return ""
    found = list(cell.earlier or ())
    if (before := _of_baseline(cell)) is not None and before.name not in [one.name for one in found]:
        found.insert(0, before)
    recipe = recipe_of(cell.candidate.manifest)
    if not found:
        none = f"No other release of this model with {recipe} is registered that read the same text"
        return f"{none}: nothing here says what is usual." if cell.earlier is not None else ""
    values = [one.kl_mean for one in found]
    if len(found) > _MOST_NAMED:
        low, high = (figure("kl_mean", value) for value in (min(values), max(values)))
        return f"{len(found)} other releases with {recipe}, same text: {low} to {high}."
    return f"Other releases with {recipe}, same text: {', '.join(map(_in_words, found))}."


def _of_baseline(cell: CellContent) -> Earlier | None:
    old, new = cell.before, cell.candidate
    if old is None or old.evidence is None or new.evidence is None or old.evidence.text != new.evidence.text:
        return None
    if recipe_on(old) != recipe_on(new) or "kl_mean" not in old.evidence.figures or not old.evidence.passed:
        return None
    if _model(old) != _model(new) or _release(old) == _release(new):
        return None
    return Earlier(old.name, old.evidence.figures["kl_mean"].value)


def _model(side: Subject | Recorded) -> str:
    return side.name.partition(":")[0]


def _release(side: Subject | Recorded) -> str:
    return side.name.partition("@")[0]


def _in_words(one: Earlier) -> str:
    return f"{figure('kl_mean', one.kl_mean)} in {one.name}"
