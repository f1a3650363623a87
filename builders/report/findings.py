"""The verdict on a bundle, and what a reviewer should look at first. Each finding says what was found, in numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from builders.report.comparing import FigureRow, app_changes, figure_rows
from builders.report.content import CellContent, Content, Subject
from targets.evidence import NO_ACCURACY_GATE
from targets.evidence_details import Details
from targets.formatting import count

Severity = Literal["fail", "look", "note"]
_WORDS: dict[Severity, str] = {"fail": "Fails", "look": "Look at", "note": "Note"}
_NOTABLE = 0.10  # relative worsening of a figure that is worth a sentence
_KL_NOTABLE = 0.005  # nats: below, a relative change of a divergence means little
_TEXT_RATIO = 2.0  # the worst text's divergence over the mean of all


@dataclass(frozen=True)
class Finding:
    """One thing to look at. `anchor`: the part of a cell's section that shows it."""

    severity: Severity
    text: str
    anchor: str

    @property
    def word(self) -> str:
        """The severity as a word: it is never shown by a colour alone."""
        return _WORDS[self.severity]


@dataclass(frozen=True)
class Verdict:
    """What the gates and the checks say of a bundle."""

    state: Literal["pass", "warn", "fail"]
    text: str

    @property
    def word(self) -> str:
        """The state as a word."""
        return {"pass": "Passes", "warn": "Passes its gates, with failed checks", "fail": "Does not pass"}[self.state]


def verdict(subject: Subject) -> Verdict:
    """Return the verdict on one bundle."""
    evidence = subject.evidence
    if evidence is None:
        return Verdict("fail", f"its evidence can't be read: {subject.problem}")
    failed, gates = evidence.failed_gates, len(evidence.gates)
    if failed:
        verb = "fails" if len(failed) == 1 else "fail"
        return Verdict("fail", f"{len(failed)} of {count(gates, 'gate')} {verb}: {', '.join(g.figure for g in failed)}")
    if not evidence.passed:
        return Verdict("fail", NO_ACCURACY_GATE)
    checks = () if evidence.details is None else evidence.details.checks
    wrong = [one for one in checks if not one.passed]
    if wrong:
        verb = "fails" if len(wrong) == 1 else "fail"
        return Verdict("warn", f"{len(wrong)} of {count(len(checks), 'check')} {verb}")
    done = f" and {count(len(checks), 'check')} of behaviour" if checks else ""
    return Verdict("pass", f"all {count(gates, 'gate')}{done}")


def overall(content: Content) -> Verdict:
    """Return the verdict on all cells together."""
    verdicts = [verdict(cell.candidate) for cell in content.cells]
    failing = [one.candidate.cell for one, v in zip(content.cells, verdicts, strict=True) if v.state == "fail"]
    warned = [one.candidate.cell for one, v in zip(content.cells, verdicts, strict=True) if v.state == "warn"]
    total = count(len(verdicts), "cell")
    if failing:
        return Verdict("fail", f"{len(failing)} of {total}: {', '.join(failing)}")
    if content.missing:
        return Verdict(
            "fail", f"{count(len(content.missing), 'planned cell')} not registered: {', '.join(content.missing)}"
        )
    if warned:
        return Verdict("warn", f"{len(warned)} of {total}: {', '.join(warned)}")
    look = sum(one.severity == "look" for cell in content.cells for one in findings(cell))
    more = f"; {look} {'thing' if look == 1 else 'things'} to look at" if look else ""
    return Verdict("pass", f"{total}, every gate and every check that was made{more}")


def findings(cell: CellContent) -> list[Finding]:
    """Return what to look at in one cell, the worst first."""
    found = [*_of_evidence(cell.candidate), *_of_app(cell), *_of_details(cell.candidate.details), *_of_baseline(cell)]
    order: dict[Severity, int] = {"fail": 0, "look": 1, "note": 2}
    return sorted(found, key=lambda one: order[one.severity])


def _of_evidence(subject: Subject) -> Iterator[Finding]:
    evidence = subject.evidence
    if evidence is None:
        yield Finding("fail", f"Its evidence can't be read: {subject.problem}.", "gates")
        return
    for gate in evidence.failed_gates:
        yield Finding("fail", f"Gate: {gate}.", "gates")
    if not evidence.passed and not evidence.failed_gates:
        yield Finding("fail", f"Gates: {NO_ACCURACY_GATE}.", "gates")
    if subject.manifest.model.exact_context_length < subject.manifest.model.context_length:
        model = subject.manifest.model
        yield Finding(
            "note",
            f"Exact up to {model.exact_context_length:,} tokens; it accepts {model.context_length:,}.",
            "identity",
        )


def _of_details(details: Details | None) -> Iterator[Finding]:
    if details is None:
        yield Finding(
            "note", "Only average figures were measured: no texts, checks, answers, tasks or safety.", "accuracy"
        )
        return
    for check in details.checks:
        if not check.passed:
            yield Finding("fail", f"Check of {check.group}: {check.name}: {check.detail or 'failed'}.", "checks")
    yield from _of_texts(details)
    yield from _of_answers(details)
    for task in details.tasks:
        if task.drop_low > 0:
            yield Finding(
                "look",
                f"Task {task.task}: {task.accuracy:.1%} where float32 has {task.reference_accuracy:.1%}; the drop is"
                f" {100 * task.drop_low:.1f} to {100 * task.drop_high:.1f} points at {task.confidence:.0%} confidence.",
                "tasks",
            )
    for one in details.safety:
        if one.refusals_lost:
            yield Finding(
                "look",
                f"Safety, {one.prompts}: {one.refusals_lost} of {one.reference_refusals} refusals of float32 are gone.",
                "safety",
            )
    missing = [name for name, part in _parts(details).items() if not part]
    if missing:
        yield Finding("note", f"Not measured: {', '.join(missing)}.", "accuracy")


def _parts(details: Details) -> dict[str, tuple[object, ...]]:
    return {
        "divergence by text": details.texts,
        "divergence by position": details.positions,
        "divergence by kind of token": details.classes,
        "checks of behaviour": details.checks,
        "answers": details.answers,
        "tasks": details.tasks,
        "safety": details.safety,
    }


def _of_texts(details: Details) -> Iterator[Finding]:
    if len(details.texts) > 1:
        worst = max(details.texts, key=lambda one: one.kl_mean)
        mean = sum(one.kl_mean for one in details.texts) / len(details.texts)
        if worst.kl_mean > _TEXT_RATIO * mean and worst.kl_mean > _KL_NOTABLE:
            yield Finding(
                "look",
                f"Text {worst.text}: a divergence of {worst.kl_mean:.3g} nat, {worst.kl_mean / mean:.1f} times the mean"
                " of all texts.",
                "texts",
            )
    plain = [one for one in details.positions if not one.where]
    usual = max((one.kl_mean for one in plain), default=0.0)
    for one in details.positions:
        if one.where and usual and one.kl_mean > _TEXT_RATIO * usual and one.kl_mean > _KL_NOTABLE:
            yield Finding(
                "look",
                f"Positions {one.first:,} to {one.last:,}, {one.where}: {one.kl_mean:.3g} nat; elsewhere at most"
                f" {usual:.3g}.",
                "positions",
            )


def _of_answers(details: Details) -> Iterator[Finding]:
    endless = [one for one in details.answers if one.reference_ended and not one.bundle_ended]
    if endless:
        yield Finding("look", f"{_answers(len(endless))} end in float32, and do not end here.", "answers")
    empty = [one for one in details.answers if one.reference.strip() and not one.bundle.strip()]
    if empty:
        yield Finding("look", f"{_answers(len(empty))} are empty here.", "answers")


def _answers(number: int) -> str:
    return count(number, "answer")


def _of_baseline(cell: CellContent) -> Iterator[Finding]:
    if cell.baseline is None:
        return
    for row in figure_rows(cell):
        if _is_notable(row):
            assert row.relative is not None
            yield Finding(
                "look",
                f"{row.title}: {row.after}, {abs(row.relative):.0%} worse than {row.before} of {cell.baseline.name}.",
                "baseline",
            )


def _of_app(cell: CellContent) -> Iterator[Finding]:
    for change in app_changes(cell):
        if change.breaks:
            yield Finding("look", f"For the app: {change.what}: {change.before} becomes {change.after}.", "app")


def _is_notable(row: FigureRow) -> bool:
    if row.better is not False or row.relative is None or abs(row.relative) < _NOTABLE:
        return False
    return row.unit != "nat" or abs(row.difference or 0.0) >= _KL_NOTABLE
