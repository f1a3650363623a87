"""What is worse than in production, or has another meaning there: findings of a bundle next to its baseline."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from builders.report.changes import app_changes
from builders.report.comparing import FigureRow, different_texts, figure_rows
from builders.report.content import CellContent
from builders.report.finding import KL_NOTABLE, Finding
from targets.evidence import ACCURACY_FIGURES, OWN_RUNTIME_FIGURES
from targets.formatting import count

_NOTABLE = 0.10  # relative worsening of a figure that is worth a sentence
_PERPLEXITY_NOTABLE = 0.03  # of float32's own on the same tokens: nothing else shows a worse checkpoint
_SHARE_NOTABLE = 0.01 - 1e-9  # a point, whatever the share was; less what a difference of two is rounded by
_TEXT_RATIO = 2.0  # how much more one text is worse than the others are, each next to production's
_DIVERGENCES = ACCURACY_FIGURES | {"kl_standard_error"}


def of_regressions(cell: CellContent) -> Iterator[Finding]:
    """Yield what is notably worse than in production: answers, single texts, figures."""
    yield from _of_answers(cell)
    yield from _of_texts(cell)
    yield from _of_figures(cell)


def of_changes(cell: CellContent) -> Iterator[Finding]:
    """Yield what an app must follow, what a build noted that production's did not, and another checkpoint."""
    old, new = cell.baseline, cell.candidate
    if old is None:
        return
    for change in app_changes(cell):
        if change.must_follow:
            meaning = f": {change.meaning}" if change.meaning else ""
            yield Finding(
                "look", f"For the app: {change.what}: {change.before} becomes {change.after}{meaning}.", "changes"
            )
    same_recipe = new.manifest.recipe.name == old.manifest.recipe.name  # else most notes are about the recipe
    for note in new.manifest.recipe.notes if same_recipe else ():
        if note not in old.manifest.recipe.notes:
            yield Finding("look", f"{old.name} was built without this note: {note}.", "identity")
    if new.manifest.checkpoint != old.manifest.checkpoint:
        yield Finding(
            "look",
            f"The checkpoint is another one than that of {old.name}. Each bundle is compared with its own checkpoint in"
            " float32: a fault of the checkpoint itself shows in no divergence, check or gate, only in what is next to"
            " production's: answers, perplexity, stop ids and template.",
            "changes",
        )


def _of_answers(cell: CellContent) -> Iterator[Finding]:
    """Yield what production's answers did, and these don't."""
    details, before = cell.candidate.details, None if cell.baseline is None else cell.baseline.details
    if details is None or before is None or cell.baseline is None:
        return
    ended = {one.prompt for one in before.answers if one.bundle_ended}
    run_on = [one for one in details.answers if not one.bundle_ended and one.prompt in ended]
    if number := sum(not one.reference_ended for one in run_on):  # the others differ from float32, too
        verb = "ends" if number == 1 else "end"
        text = f"{count(number, 'answer')} {verb} in {cell.baseline.name}, and neither here nor in float32."
        yield Finding("look", text, "answers")


def _of_texts(cell: CellContent) -> Iterator[Finding]:
    """Yield a text that is worse than in production by far more than the others are: their average hides it."""
    new, old = cell.candidate.details, None if cell.baseline is None else cell.baseline.details
    if new is None or old is None or cell.baseline is None or different_texts(cell):
        return
    before = {one.text: one.kl_mean for one in old.texts if one.kl_mean > 0}
    times = {one.text: one.kl_mean / before[one.text] for one in new.texts if one.text in before}
    for one in new.texts:
        others = [ratio for text, ratio in times.items() if text != one.text]
        if one.text not in times or not others or one.kl_mean < KL_NOTABLE:
            continue
        if math.isfinite(times[one.text]) and times[one.text] > _TEXT_RATIO * max(1, *others):
            yield Finding(
                "look",
                f"Text {one.text}: {one.kl_mean:.3g} nat, {times[one.text]:.1f} times the {before[one.text]:.3g} of"
                f" {cell.baseline.name}; the other texts have at most {max(others):.1f} times theirs.",
                "texts",
            )


def _of_figures(cell: CellContent) -> Iterator[Finding]:
    """Yield which figures are notably worse: those of accuracy, which go together, in one sentence."""
    if cell.problem:
        yield Finding("look", f"Compared with nothing: {cell.problem}.", "baseline")
    if cell.baseline is None:
        return
    if why := different_texts(cell):
        yield Finding("note", f"Divergences and perplexities of the two {why}: neither is called better.", "baseline")
    name = cell.baseline.name
    worse = [row for row in figure_rows(cell) if _is_notable(row)]
    yield from _of_accuracy([row for row in worse if row.name in _DIVERGENCES], name)
    for row in worse:
        if row.name in OWN_RUNTIME_FIGURES:
            text = f"On the machine that validated, which is no phone: {_sentence(row, name)}"
            yield Finding("note", text, "speed")
        elif row.name not in _DIVERGENCES:
            yield Finding("look", _sentence(row, name), "baseline")


def _of_accuracy(worse: Sequence[FigureRow], name: str) -> Iterator[Finding]:
    if worse:
        more = f" So {_are(len(worse) - 1)} of accuracy." if len(worse) > 1 else ""
        yield Finding("look", f"{_sentence(worse[0], name)}{more}", "baseline")


def _are(number: int) -> str:
    return f"{'is' if number == 1 else 'are'} {count(number, 'other figure')}"


def _sentence(row: FigureRow, name: str) -> str:
    return f"{row.title}: {row.after}, {_how_much(row)}worse than {row.before} of {name}."


def _is_notable(row: FigureRow) -> bool:
    if row.better is not False:
        return False
    if row.difference is None:  # one of the two is infinite
        return True
    if row.unit == "share":
        return abs(row.difference) >= _SHARE_NOTABLE
    if row.unit == "nat" and abs(row.difference) < KL_NOTABLE:
        return False
    notable = _PERPLEXITY_NOTABLE if row.name == "reference_perplexity" else _NOTABLE
    return row.relative is None or abs(row.relative) >= notable  # None: it was 0


def _how_much(row: FigureRow) -> str:
    """Return how much worse a figure is, as text with a blank at its end; empty where no number says it."""
    if row.unit == "share" and row.difference is not None:
        return f"{100 * abs(row.difference):.1f} points "
    return "" if row.relative is None else f"{abs(row.relative):.0%} "
