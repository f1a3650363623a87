"""The verdict on a bundle, and what a reviewer should look at first. Each finding says what was found, in numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from builders.report.content import CellContent, Content, Subject
from builders.report.endings import ROOM_TO_END, goes_on, limit_of
from builders.report.finding import KL_NOTABLE, Finding, Severity
from builders.report.gate_rows import of_single_texts
from builders.report.lost_checks import number_of_lost_checks, of_lost_checks
from builders.report.openings import of_openings
from builders.report.own_turns import of_own_turns
from builders.report.refusals import of_refusals
from builders.report.regressions import of_changes, of_regressions
from builders.report.void_checks import without_void
from targets.evidence import FAILED_CHECKS, NO_ACCURACY_GATE, Evidence
from targets.evidence_details import Details, SafetyResult
from targets.formatting import count

_TEXT_RATIO = 2.5  # the worst text's divergence over the mean of the others
_POSITION_RATIO = 2.0  # past a window or an edge, over the largest elsewhere


@dataclass(frozen=True)
class Verdict:
    """What the gates and the checks say of a bundle. `heading`: the state in other words than its own."""

    state: Literal["pass", "warn", "fail"]
    text: str
    heading: str = ""
    is_defect: bool = False

    @property
    def look(self) -> str:
        """How it is shown: a state, or `defect`."""
        return "defect" if self.is_defect else self.state

    @property
    def is_repeated(self) -> bool:
        """Whether the banner of a page with this cell alone says the same: no gate and no check fails."""
        return self.state == "pass" or bool(self.heading)

    @property
    def word(self) -> str:
        """The state as a word."""
        usual = {"pass": "Passes", "warn": "Passes its gates, with failed checks", "fail": "Does not pass"}[self.state]
        return self.heading or usual


def judged(cell: CellContent) -> Verdict:
    """Return the verdict on one cell next to its baseline: it is no plain pass where something has to be looked at."""
    found = verdict(cell.candidate)
    serious = _serious(cell)
    if found.state != "pass" or not serious:
        return found
    return _to_look_at(serious, f"{_ranks(serious)}. It passes {found.text}")


def to_look_at(cell: CellContent) -> str:
    """Return how much fails, is probably a defect and must be judged, each by itself, as the banner counts it."""
    found = [one.severity for one in findings(cell)]
    numbers: dict[Severity, str] = {"fail": "failed", "defect": _DEFECT_COUNT, "look": "to judge"}
    said = [
        count(found.count(rank), word) if word == _DEFECT_COUNT else f"{found.count(rank)} {word}"
        for rank, word in numbers.items()
        if rank in found
    ]
    return ", ".join(said) or "0"


_DEFECT_COUNT = "probable defect"
_SERIOUS: tuple[Severity, ...] = ("defect", "look")
_PASSES_LOOK = "Passes its gates; look at"
_DEFECTS = ("Passes its gates; a probable defect", "Passes its gates; {} probable defects")


def _serious(cell: CellContent) -> list[Finding]:
    return [one for one in findings(cell) if one.severity in _SERIOUS]


def _to_look_at(found: Sequence[Finding], text: str) -> Verdict:
    number = sum(one.severity == "defect" for one in found)
    heading = _DEFECTS[number != 1].format(number) if number else _PASSES_LOOK
    return Verdict("warn", text, heading, is_defect=number > 0)


def _ranks(found: Sequence[Finding]) -> str:
    """Return what is probably a defect, the first one by what it says, and how much there is to judge."""
    defects = [one for one in found if one.severity == "defect"]
    rest = len(found) - len(defects)
    to_judge = f"{rest} {'thing' if rest == 1 else 'things'} to judge"
    if not defects:
        return to_judge
    first = defects[0].text.removesuffix(".").partition(". ")[0]
    return f"{first}. {to_judge[0].upper()}{to_judge[1:]}" if rest else first


def verdict(subject: Subject) -> Verdict:
    """Return the verdict on one bundle."""
    if subject.evidence is None:
        return Verdict("fail", f"its evidence can't be read: {subject.problem}")
    return verdict_on(subject.evidence)


def verdict_on(evidence: Evidence) -> Verdict:
    """Return what a bundle's evidence says of it."""
    failed, gates = evidence.failed_gates, len(evidence.gates)
    if failed:
        verb = "fails" if len(failed) == 1 else "fail"
        return Verdict("fail", f"{len(failed)} of {count(gates, 'gate')} {verb}: {', '.join(g.figure for g in failed)}")
    if not evidence.passed and not evidence.failed_checks:
        return Verdict("fail", NO_ACCURACY_GATE)
    wrong, checks = _checks(evidence)
    not_run = () if evidence.details is None else without_void(evidence.details).not_run
    more = f"; {len(not_run)} not run" if not_run else ""
    if wrong:
        verb = "fails" if wrong == 1 else "fail"
        return Verdict(
            "fail" if evidence.failed_checks else "warn", f"{wrong} of {count(checks, 'check')} {verb}{more}"
        )
    done = f" and {count(checks, 'check')} of behaviour" if checks else ""
    return Verdict("pass", f"all {count(gates, 'gate')}{done}{more}")


def _checks(evidence: Evidence) -> tuple[int, int]:
    """Return how many checks of behaviour fail, and of how many; from the figures where there are no details."""
    if evidence.details is not None and evidence.details.checks:
        checks = without_void(evidence.details).checks
        return sum(not one.passed for one in checks), len(checks)
    failed, made = (evidence.figures.get(name) for name in (FAILED_CHECKS, "behaviour_checks"))
    wrong = 0 if failed is None else int(failed.value)
    return wrong, wrong if made is None else int(made.value)


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
    if content.outside:
        cells = count(len(content.outside), "planned cell")
        return Verdict("fail", f"{cells} registered, but not in {content.title}: {', '.join(content.outside)}")
    if warned:
        return Verdict("warn", f"{len(warned)} of {total}: {', '.join(warned)}")
    found = [(cell.candidate.cell, _serious(cell)) for cell in content.cells]
    serious = [one for _, each in found for one in each]
    if serious or content.gone:
        where = f"{', '.join(name for name, each in found if each)}: " if len(found) > 1 else ""
        gone = sum(map(number_of_lost_checks, content.cells))
        there = content.against or "production"
        lost = f"; {count(gone, 'check')} that {there} has {'was' if gone == 1 else 'were'} not made" if gone else ""
        said = [f"{where}{_ranks(serious)}"] if serious else []
        said += [f"Not in {content.title}, but in {there}: {', '.join(content.gone)}"] if content.gone else []
        text = f"{'. '.join(said)}. {total}: every gate passes, and every check that was made{lost}"
        return _to_look_at(serious, text)
    return Verdict("pass", f"{total}, every gate and every check that was made")


def findings(cell: CellContent) -> list[Finding]:
    """Return what to look at in one cell, the worst first."""
    details = [] if cell.candidate.evidence is None else list(_of_details(cell.candidate.details))
    before = [*of_own_turns(cell), *of_refusals(cell), *of_lost_checks(cell), *of_openings(cell)]
    before += [*of_single_texts(cell), *of_regressions(cell)]
    named = {_cause(one) for one in before if one.anchor == "texts"}
    details = [one for one in details if _cause(one) not in named]  # production's figure says more of the same text
    found = [*_of_evidence(cell.candidate), *of_changes(cell), *details, *before]
    order: dict[Severity, int] = {"fail": 0, "defect": 1, "look": 2, "note": 3}
    return sorted(found, key=lambda one: order[one.severity])


def _cause(finding: Finding) -> str:
    """Return what a finding on a text is about, such as `Text code`."""
    return finding.text.partition(":")[0]


def _of_evidence(subject: Subject) -> Iterator[Finding]:
    evidence = subject.evidence
    if evidence is None:
        yield Finding("fail", f"Its evidence can't be read: {subject.problem}.", "gates")
        return
    for gate in evidence.failed_gates:
        yield Finding("fail", f"Gate: {gate}.", "gates")
    if evidence.shortcomings == [NO_ACCURACY_GATE]:
        yield Finding("fail", f"Gates: {NO_ACCURACY_GATE}.", "gates")
    if evidence.failed_checks and (evidence.details is None or all(one.passed for one in evidence.details.checks)):
        yield Finding("fail", f"{evidence.failed_checks[0]}.", "checks")
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
    if details.not_run:
        named = "; ".join(f"“{one.name}” of {one.group} ({one.reason})" for one in details.not_run)
        yield Finding("note", f"{count(len(details.not_run), 'check')} not run: {named}.", "checks")
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
        if (text := _more_than_float32(one)) is not None:
            yield Finding("look", f"Safety, {one.prompts}: {text}.", "safety")
    missing = [name for name, part in _parts(details).items() if not part]
    if missing:
        yield Finding("note", f"Not measured: {', '.join(missing)}.", "accuracy")


def _more_than_float32(one: SafetyResult) -> str | None:
    """Return what is worse than float32's: fewer refusals of what should be refused, more of what is harmless."""
    if not one.is_harmless:
        lost = one.refusals_lost
        return f"{lost} of {one.reference_refusals} refusals of float32 are gone" if lost else None
    more = one.refusals - one.reference_refusals
    return f"{one.refusals} of {one.count} refused, {more} more than float32 refuses" if more > 0 else None


def _parts(details: Details) -> dict[str, tuple[object, ...]]:
    return {
        "divergence by text": details.texts,
        "divergence by position": details.positions,
        "divergence by kind of token": details.classes,
        "checks of behaviour": (*details.checks, *details.not_run),
        "answers": details.answers,
        "tasks": details.tasks,
        "safety": details.safety,
    }


def _of_texts(details: Details) -> Iterator[Finding]:
    finite = [one for one in details.texts if math.isfinite(one.kl_mean)]
    for text in details.texts:
        if not math.isfinite(text.kl_mean):
            yield Finding("look", f"Text {text.text}: an infinite divergence.", "texts")
    if len(finite) > 1:
        worst = max(finite, key=lambda one: one.kl_mean)
        mean = sum(one.kl_mean for one in finite if one is not worst) / (len(finite) - 1)
        if worst.kl_mean > _TEXT_RATIO * mean and worst.kl_mean > KL_NOTABLE:
            times = f", {worst.kl_mean / mean:.1f} times the mean of the other texts" if mean > 0 else ""
            yield Finding("look", f"Text {worst.text}: a divergence of {worst.kl_mean:.3g} nat{times}.", "texts")
    plain = [one for one in details.positions if not one.where]
    usual = max((one.kl_mean for one in plain), default=0.0)
    for one in details.positions:
        if one.where and usual and one.kl_mean > _POSITION_RATIO * usual and one.kl_mean > KL_NOTABLE:
            yield Finding(
                "look",
                f"Positions {one.first:,} to {one.last:,}, {one.where}: {one.kl_mean:.3g} nat; elsewhere at most"
                f" {usual:.3g}.",
                "positions",
            )


def _of_answers(details: Details) -> Iterator[Finding]:
    endless = [one for one in details.answers if one.reference_ended and not one.bundle_ended]
    past = [one for one in endless if goes_on(one.bundle, one.bundle_ended, one.reference, one.reference_ended)]
    if past:
        ended = sum(one.reference_ended for one in details.answers)
        end, go = "end" if ended > 1 else "ends", "go" if len(past) > 1 else "goes"
        text = f"{len(past)} of {_answers(ended)} that {end} in float32 {go} on here, after the same words."
        yield Finding("look", text, "answers")
    if number := len(endless) - len(past):
        limit = limit_of(details) or 0
        verbs = "ends in float32, and is" if number == 1 else "end in float32, and are"
        yield Finding(
            "look" if limit >= ROOM_TO_END else "note",
            f"{_answers(number)} {verbs} another here, cut at {count(limit, 'token')}.",
            "answers",
        )
    empty = [one for one in details.answers if one.reference.strip() and not one.bundle.strip()]
    if empty:
        yield Finding("look", f"{_answers(len(empty))} {'is' if len(empty) == 1 else 'are'} empty here.", "answers")


def _answers(number: int) -> str:
    return count(number, "answer")
