"""What is worse than in production, or has another meaning there: findings of a bundle next to its baseline."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from builders.report.at_a_glance import at_a_glance
from builders.report.change import Change
from builders.report.changes import STOP_IDS, app_changes, own_checkpoint, phones_change
from builders.report.comparing import FigureRow, different_texts, figure_rows
from builders.report.content import CellContent, side_name
from builders.report.endings import ROOM_TO_END, goes_on, limit_of
from builders.report.finding import KL_NOTABLE, Finding, Severity
from builders.report.layers import has_same_weights, layers_in_words
from builders.report.merge_base import MERGED, base_in_words
from builders.report.predictions import OTHER_TOKENS, not_comparable
from builders.report.reach import reach_in_words
from builders.report.recipes import recipe_on
from builders.report.same_files import files_that_differ, same_model, same_weights
from builders.report.two_references import predicts_the_same
from builders.report.worse_reference import is_worse_reference, of_worse_reference, worse_parts
from registry.bundle.manifest import Manifest
from targets.evidence import ACCURACY_FIGURES
from targets.evidence_details import Details
from targets.formatting import count

_NOTABLE = 0.10  # relative worsening of a figure that is worth a sentence
_PERPLEXITY_NOTABLE = 0.03  # of float32's own on the same tokens: nothing else shows a worse checkpoint
_SHARE_NOTABLE = 0.01 - 1e-9  # a point, whatever the share was; less what a difference of two is rounded by
_TEXT_RATIO = 2.0  # how much more one text is worse than the others are, each next to production's
_DIVERGENCES = ACCURACY_FIGURES | {"kl_standard_error"}


def of_regressions(cell: CellContent) -> Iterator[Finding]:
    """Yield what is notably worse than in production: answers, single texts, figures."""
    yield from _of_answers(cell)
    texts = list(_of_texts(cell))
    yield from texts
    yield from _of_figures(cell, explained=bool(texts))


def of_changes(cell: CellContent) -> Iterator[Finding]:
    """Yield what an app must follow, what a build noted that production's did not, and another checkpoint."""
    old, new = cell.baseline, cell.candidate
    known = () if old is None else old.manifest.recipe.notes
    notes = [note for note in new.manifest.recipe.notes if note not in known]
    no_end = [note for note in notes if _NO_END in note]
    yield from _of_what_an_app_follows(cell, no_end)
    if old is None:
        yield from _of_recorded(cell)
        return
    yield from _of_notes(cell, [note for note in notes if note not in no_end])
    if new.manifest.checkpoint != old.manifest.checkpoint:
        yield from of_worse_reference(cell, old.name)
        yield _of_checkpoint(cell, old.name)
        if (said := reach_in_words(cell)) and not same_weights(old.manifest, new.manifest):
            yield _of_reach(said)


def _of_recorded(cell: CellContent) -> Iterator[Finding]:
    """Yield what evidence alone says of changes, where the baseline can't be read."""
    if cell.recorded is None:
        return
    if (phones := phones_change(cell)) is not None and phones.changed:
        yield _of_change(phones, ())
    if cell.has_other_reference:
        yield from of_worse_reference(cell, cell.recorded.name)
        yield _another_checkpoint(cell, cell.recorded.name)
        if said := reach_in_words(cell):
            yield _of_reach(said)


def _of_reach(said: str) -> Finding:
    return Finding("look", f"Context, window or rope of the checkpoint are others: {said}.", "changes")


def _of_what_an_app_follows(cell: CellContent, no_end: Sequence[str]) -> Iterator[Finding]:
    """Yield what no longer reaches the model, then the rest. `no_end`: notes of a turn's end that is no stop id."""
    changes = [] if cell.baseline is None else [change for change in app_changes(cell) if change.must_follow]
    yield from (_of_lost_text(change) for change in changes if change.effect)
    if no_end and not any(map(_loses_stop_id, changes)):
        yield Finding("defect", f"Stop ids: {'; '.join(no_end)}.", "identity")
    for change in changes:
        if not change.effect:
            yield _of_change(change, no_end if _loses_stop_id(change) else [])


def _of_notes(cell: CellContent, notes: Sequence[str]) -> Iterator[Finding]:
    """Yield what the build noted, and production's did not. With another recipe most notes are about that."""
    assert cell.baseline is not None
    old, new = cell.baseline, cell.candidate
    same_recipe = new.manifest.recipe.name == old.manifest.recipe.name
    base = base_in_words(cell)
    for note in notes:
        if base and note.startswith(MERGED):
            yield Finding("look", f"New in this build: {note}; {base}.", "identity")
        elif same_recipe:
            yield Finding("look", f"New in this build, and not in that of {old.name}: {note}.", "identity")


_NO_END = "is not among the stop ids"  # in a note of builders/tokenizer/stop_ids.py


def _loses_stop_id(change: Change) -> bool:
    return change.what == STOP_IDS and change.loses


def _of_lost_text(change: Change) -> Finding:
    how = f"{change.before} becomes {change.after}{': ' if change.meaning else ''}{change.meaning}"
    text = f"{change.what.capitalize()}: {change.effect}. {how}. {_UNSEEN}"
    return Finding("defect", text, "changes")


_UNSEEN = (
    "Checks of the template pass all the same, as they compare with the candidate's own one, and answers can't show it:"
    " each prompt is a single message."
)


def _of_change(change: Change, notes: Sequence[str]) -> Finding:
    meaning = "".join(f"; {part}" for part in (change.meaning, *notes) if part).removeprefix("; ")
    text = f"{change.what}: {change.before} becomes {change.after}{': ' if meaning else ''}{meaning}."
    if change.loses:
        return Finding("defect", text[0].upper() + text[1:], "changes")
    return Finding("look", f"For the app: {text}", "changes")


def _of_checkpoint(cell: CellContent, name: str) -> Finding:
    assert cell.baseline is not None
    old, new = cell.baseline.manifest, cell.candidate.manifest
    if same_weights(old, new):
        same = "with weights " if files_that_differ(old, new) else "of the bundle "
        text = f"The checkpoint is another one than that of {name}, but every file {same}is the same."
        parts = (text, _of_configuration(cell, old, new), own_checkpoint(cell))
        return Finding("note" if same_model(old, new) else "look", " ".join(filter(None, parts)), "changes")
    return _another_checkpoint(cell, name)


def _another_checkpoint(cell: CellContent, name: str) -> Finding:
    said = layers_in_words(cell)
    return Finding(
        "look",
        f"The checkpoint is another one than that of {name}. Gates, checks and divergences compare each bundle with its"
        " own checkpoint, so they show no fault of the checkpoint itself. Where one would show: the two checkpoints in"
        f" float32, the answers, the stop ids and the template.{_alike(cell)}{' ' if said else ''}{said}"
        f"{_of_unnamed_configuration(cell)}",
        "float32" if cell.has_other_reference else "changes",
    )


def _of_unnamed_configuration(cell: CellContent) -> str:
    """Return that what changed is in no row of the page: the weights are the same, and so is all that an app sees."""
    if cell.baseline is None or not has_same_weights(cell):
        return ""
    old, new = cell.baseline.manifest, cell.candidate.manifest
    is_named = any(change.changed and change.what != "download" for change in app_changes(cell))
    of_tokenizer = any("token" in path for path in files_that_differ(old, new))
    if is_named or of_tokenizer or same_model(old, new) or old.tools != new.tools:
        return ""
    return " So its configuration is another one, in what no row of this page shows."


def _alike(cell: CellContent) -> str:
    if not predicts_the_same(cell):
        return ""
    return " In float32 both predict alike each text of which they read the same tokens."


def _of_configuration(cell: CellContent, old: Manifest, new: Manifest) -> str:
    """Return that another model is made of the same weights; empty where it is the same one."""
    if same_model(old, new):
        return ""
    reach = reach_in_words(cell)
    files = ", ".join(files_that_differ(old, new))
    return f"Its configuration is another one: {files}{f'; {reach}' if reach else ''}."


def _of_answers(cell: CellContent) -> Iterator[Finding]:
    """Yield what production's answers did, and these don't."""
    details, before = cell.candidate.details, None if cell.before is None else cell.before.details
    if details is None or before is None or cell.before is None:
        return
    ended = {one.prompt for one in before.answers if one.bundle_ended}
    run_on = [one for one in details.answers if not one.bundle_ended and one.prompt in ended]
    past = _run_past(details, before)
    elsewhere = [one for one in run_on if not one.reference_ended and one.prompt not in past]
    if number := len(elsewhere):  # the others differ from float32, too
        verb = "ends" if number == 1 else "end"
        text = f"{count(number, 'answer')} {verb} in {cell.before.name}, and neither here nor in float32"
        limit = limit_of(details) or 0
        severity: Severity = "look" if limit >= ROOM_TO_END else "note"
        yield Finding(severity, f"{text}: cut at {count(limit, 'token')}.", "answers")
    if past:
        text = (
            f"To {count(len(past), 'prompt')}, an answer ends for {cell.before.name} and goes on after the same words"
        )
        known = any(map(_loses_stop_id, app_changes(cell)))  # a stop id, which is a finding of its own
        yield Finding("note" if known else "look", f"{text} here, in float32 or in the bundle.", "answers")


def _run_past(details: Details, before: Details) -> set[str]:
    """Return the prompts to which one of the two answers says all that production's did, and does not end there."""
    old = {one.prompt: one for one in before.answers}
    pairs = [(one, old[one.prompt]) for one in details.answers if one.prompt in old]
    return {
        one.prompt
        for one, other in pairs
        if goes_on(one.bundle, one.bundle_ended, other.bundle, other.bundle_ended)
        or goes_on(one.reference, one.reference_ended, other.reference, other.reference_ended)
    }


def _of_texts(cell: CellContent) -> Iterator[Finding]:
    """Yield a text that is worse than in production by far more than the others are: their average hides it."""
    new, old = cell.candidate.details, None if cell.before is None else cell.before.details
    if new is None or old is None or cell.before is None or different_texts(cell):
        return
    before, times = _before(old), _times(cell)
    same_recipe = recipe_on(cell.before) == recipe_on(cell.candidate)
    for one in new.texts:
        others = [ratio for text, ratio in times.items() if text != one.text]
        if one.text not in times or not others or one.kl_mean < KL_NOTABLE:
            continue
        if times[one.text] > _TEXT_RATIO * max(1, *others):
            yield Finding(
                "defect" if same_recipe else "look",
                f"Text {one.text}: {one.kl_mean:.3g} nat, {times[one.text]:.1f} times the {before[one.text]:.3g} of"
                f" {cell.before.name}; the other texts have at most {max(others):.1f} times theirs."
                f" {_glance(cell)}",
                "texts",
            )


def _times(cell: CellContent) -> dict[str, float]:
    """Return how many times as far from float32 each text is as in production, where both are finite."""
    new, old = cell.candidate.details, None if cell.before is None else cell.before.details
    if new is None or old is None:
        return {}
    before, there = _before(old), {one.text: one for one in old.texts}
    return {
        one.text: one.kl_mean / before[one.text]
        for one in new.texts
        if math.isfinite(one.kl_mean)
        and one.text in before
        and not_comparable(cell, one, there[one.text]) != OTHER_TOKENS
    }


def _before(details: Details) -> dict[str, float]:
    """Return production's divergence on each text, where there is any and it is finite."""
    return {one.text: one.kl_mean for one in details.texts if 0 < one.kl_mean < math.inf}


def _glance(cell: CellContent) -> str:
    said = at_a_glance(cell)
    return f"{said[0].upper()}{said[1:]}."


def _of_figures(cell: CellContent, *, explained: bool) -> Iterator[Finding]:
    """Yield which figures are notably worse: those of accuracy, which go together, in one sentence.

    `explained`: a single text is named as what is worse.
    """
    if cell.problem and cell.recorded is None:
        yield Finding("look", f"Compared with nothing: {cell.problem}.", "baseline")
    elif cell.problem:
        text = f"Compared by the recorded evidence alone, not by files, template, stop ids and sizes: {cell.problem}."
        yield Finding("look", text, "baseline")
    if cell.before is None:
        return
    if cell.baseline is not None and cell.baseline.evidence is None:
        problem = f"the evidence of {cell.baseline.name} can't be read: {cell.baseline.problem}"
        yield Finding("look", f"No figure and no answer is compared: {problem}.", "baseline")
        return
    if (why := different_texts(cell)) and not (is_same_bundle(cell) and cell.has_other_reference):
        text = f"KL divergence, same top token and perplexity ratio of the two {why}: neither is called better by them."
        yield Finding("note", text, "baseline")
    name = cell.before.name
    if cell.before.evidence is not None and not cell.before.evidence.passed:
        shortcomings = "; ".join(cell.before.evidence.shortcomings)
        yield Finding("note", f"{name} itself does not pass: {shortcomings}.", "baseline")
    rows = figure_rows(cell)
    is_said = any(is_worse_reference(cell, row) for row in rows) or worse_parts(cell)  # by a finding of the checkpoint
    hidden = {"perplexity", "reference_perplexity"} if is_said else set()
    worse = [row for row in rows if row.name not in hidden and _is_notable(row)]
    severity: Severity = "note" if explained else "look"
    for text in _of_accuracy([row for row in worse if row.name in _DIVERGENCES], name):
        yield Finding(severity, f"{text}{_evenly(cell)}", "baseline")
    for row in worse:
        if row.name not in _DIVERGENCES:
            yield Finding("look", _sentence(row, name), "baseline")


def is_same_bundle(cell: CellContent) -> bool:
    """Return whether there is nothing to compare: every file is production's, and so is the recipe."""
    if cell.baseline is None:
        return False
    old, new = cell.baseline.manifest, cell.candidate.manifest
    return not files_that_differ(old, new) and recipe_on(cell.baseline) == recipe_on(cell.candidate)


def _of_accuracy(worse: Sequence[FigureRow], name: str) -> Iterator[str]:
    if worse:
        more = f" So {_are(len(worse) - 1)} of accuracy." if len(worse) > 1 else ""
        yield f"{_sentence(worse[0], name)}{more}"


def _evenly(cell: CellContent) -> str:
    """Return what the recipe has to do with it: another one costs every text about the same."""
    assert cell.before is not None
    before, after = recipe_on(cell.before), recipe_on(cell.candidate)
    if before == after:
        return ""
    times = [] if different_texts(cell) else list(_times(cell).values())
    better = not times or min(times) < 1  # then it is no part of what is worse
    spread = "" if better else f"; by text {min(times):.1f} to {max(times):.1f} times {side_name(cell.before)}'s"
    return f" The recipe is another one, {before} → {after}{spread}."


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
