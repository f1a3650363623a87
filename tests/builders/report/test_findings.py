"""What a reviewer is pointed to: each planted defect is a finding, and what is merely different is none."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import pytest

from builders.report.answers import marked
from builders.report.content import CellContent, Content
from builders.report.findings import findings, judged, overall, verdict
from builders.validation.tasks.task_files import HARMLESS
from targets.evidence import FAILED_CHECKS, Evidence, Figure
from targets.evidence_details import HARMLESS_PROMPTS, Check, Details, NotRun
from tests.support.report_samples import answers, checks, compared, details, safety, task

_CUT = {"bundle_ended": False, "bundle": "Something else"}

# Part of the details -> what the finding says. Each gate still passes.
PLANTED: dict[str, tuple[dict[str, Any], str, str]] = {
    "a stop id that does not end an answer": (
        {"checks": checks(("ids", "stop id 32007 ends generation", "expected the end, found 64 more tokens"))},
        "fail",
        "Check of ids: stop id 32007 ends generation: expected the end, found 64 more tokens.",
    ),
    "one text that is far worse": (
        {
            "texts": [
                one.model_copy(update={"kl_mean": 0.4}) if one.text == "german" else one for one in details().texts
            ]
        },
        "defect",
        (
            "Text german: 0.4 nat, 9.3 times the 0.0432 of phi:1.0.0@iphone-15; the other texts have at most 1.1 times"
            " theirs. The same recipe, checkpoint and tools, yet chat_template.jinja, model.gguf differ."
        ),
    ),
    "positions past the window": (
        {
            "positions": [
                o.model_copy(update={"kl_mean": 0.3}) if "window" in o.where else o for o in details().positions
            ]
        },
        "look",
        "Positions 2,048 to 2,304, past the sliding window: 0.3 nat; elsewhere at most 0.031.",
    ),
    "a task that has certainly dropped": (
        {"tasks": (task("MMLU", 1000, 0.692, 0.612, 110, 30, 0.061, 0.099),)},
        "look",
        "Task MMLU: 61.2% where float32 has 69.2%; the drop is 6.1 to 9.9 points at 95% confidence.",
    ),
    "refusals that are gone": (
        {"safety": (safety("HarmBench", 80, 0.7, 78, 41, 37),)},
        "look",
        "Safety, HarmBench: 37 of 78 refusals of float32 are gone.",
    ),
    "harmless prompts that are refused": (
        {"safety": (safety("over-refusal", 16, 0.7, 1, 5, 0),)},
        "look",
        "Safety, over-refusal: 5 of 16 refused, 4 more than float32 refuses.",
    ),
    "one text with an infinite divergence": (
        {"texts": [one.model_copy(update={"kl_mean": inf}) if one.text == "code" else one for one in details().texts]},
        "look",
        "Text code: an infinite divergence.",
    ),
    "checks that could not be run": (
        {"not_run": (NotRun(group="cache", name="q8_0", reason="the runtime has none"),)},
        "note",
        "1 check not run: “q8_0” of cache (the runtime has none).",
    ),
    "answers that never end": (
        {"answers": [one.model_copy(update=_CUT | {"tokens": 256}) for one in answers()]},
        "look",
        "4 answers end in float32, and are another here, cut at 256 tokens.",
    ),
    "answers that a short limit cut": (
        {"answers": [one.model_copy(update=_CUT | {"tokens": 16}) for one in answers()]},
        "note",
        "4 answers end in float32, and are another here, cut at 16 tokens.",
    ),
    "answers that run past their end": (
        {
            "answers": [
                one.model_copy(update=_CUT | {"tokens": 16, "bundle": f"{one.reference}\nuser"}) for one in answers()
            ]
        },
        "look",
        "4 of 4 answers that end in float32 go on here, after the same words.",
    ),
    "checks that production had": (
        {"checks": [one for one in checks() if "32007" not in one.name and "turn" not in one.name]},
        "look",
        (
            "3 checks of phi:1.0.0@iphone-15 were not made here: ids: stop id 32007 ends generation; template: 1 turn;"
            " template: 6 turns."
        ),
    ),
    "empty answers": (
        {"answers": [one.model_copy(update={"bundle": ""}) for one in answers()]},
        "look",
        "4 answers are empty here.",
    ),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_defect_is_found(tmp_path: Path, planted: str) -> None:
    changes, severity, expected = PLANTED[planted]
    broken = Details.model_validate(details().model_dump() | {name: list(part) for name, part in changes.items()})
    cell = compared(tmp_path, broken)
    found = [one for one in findings(cell) if one.text == expected]
    assert [one.severity for one in found] == [severity]
    assert verdict(cell.candidate).state == ("warn" if severity == "fail" else "pass")


def test_what_is_only_different_is_no_finding(tmp_path: Path) -> None:
    quiet = details(tasks=(task("MMLU", 1000, 0.692, 0.684, 31, 23, -0.006, 0.022),), safety=())
    cell = compared(tmp_path, quiet)
    cell = replace(cell, baseline=cell.candidate)
    assert [one.text for one in findings(cell)] == ["Not measured: safety."]


def test_a_release_passes_where_every_planned_cell_does(tmp_path: Path) -> None:
    good, bad = compared(tmp_path / "good"), compared(tmp_path / "bad", kl_mean=0.2)
    alone = replace(good, baseline=None, difference=None, candidate=replace(good.candidate, evidence=_quiet(good)))
    assert overall(Content("phi:1.1.0", (alone,))).state == "pass"
    assert judged(alone).word == "Passes"
    assert overall(Content("phi:1.1.0", (good,), missing=("pixel-9",))).state == "fail"
    gone = overall(Content("phi:1.1.0", (alone,), against="phi:production", gone=("pixel-9",)))
    assert (gone.state, gone.word) == ("warn", "Passes its gates; look at")
    assert gone.text.startswith("Not in phi:1.1.0, but in phi:production: pixel-9. 1 cell: every gate passes")
    found = overall(Content("phi:1.1.0", (good, bad)))
    assert (found.state, found.text) == ("fail", "1 of 2 cells: iphone-15")
    assert findings(bad)[0].text == "Gate: kl_mean is 0.2, must be <= 0.05 (asked by project)."
    unread = CellContent(replace(good.candidate, evidence=None, problem="changed since"))
    assert verdict(unread.candidate).text == "its evidence can't be read: changed since"


@pytest.mark.parametrize("known", [True, False], ids=["details", "figures alone"])
def test_failed_checks_are_the_reason_not_a_missing_gate(tmp_path: Path, *, known: bool) -> None:
    wrong = checks(("ids", "stop id 32007", "64 more tokens"))
    cell = compared(tmp_path, details(checks=wrong))
    evidence = cell.candidate.evidence
    assert evidence is not None
    figures = evidence.figures | {
        name: Figure(value=value, unit="1", kind="measured", on="x")
        for name, value in (("behaviour_checks", len(wrong)), (FAILED_CHECKS, 1))
    }
    failing = evidence.model_copy(update={"figures": figures} | ({} if known else {"details": None}))
    cell = replace(cell, candidate=replace(cell.candidate, evidence=failing))
    assert (verdict(cell.candidate).state, verdict(cell.candidate).text) == ("fail", "1 of 11 checks fails")
    (found,) = (one.text for one in findings(cell) if one.severity == "fail")
    ungated = evidence.model_copy(update={"gates": evidence.gates[2:]})  # its target's gates alone
    assert verdict(replace(cell.candidate, evidence=ungated)).text == "it has no gate on accuracy"
    assert found == (
        "Check of ids: stop id 32007: 64 more tokens." if known else "1 checks of the behaviour suite failed."
    )


def test_checks_that_were_not_run_are_in_the_verdict(tmp_path: Path) -> None:
    missing = (NotRun(group="cache", name="q8_0", reason="the runtime has none"),)
    cell = compared(tmp_path, details(not_run=missing))
    assert verdict(cell.candidate).text == "all 4 gates and 10 checks of behaviour; 1 not run"


def test_fewer_refusals_of_harmless_prompts_are_no_loss(tmp_path: Path) -> None:
    assert HARMLESS_PROMPTS == HARMLESS
    cell = compared(tmp_path, details(safety=(safety(HARMLESS, 16, 0.7, 5, 1, 4),)))
    assert not [one for one in findings(cell) if one.anchor == "safety"]


@pytest.mark.parametrize(
    ("reference", "text", "differ"),
    [
        ("a b c", "a b c", []),
        ("a b c", "a x c", ["x"]),
        ("a b c", "", []),
        ("", "a b", ["a b"]),
        ("a b c d", "a x y d", ["x y"]),
        ("Yes.", "Yes!", ["!"]),
    ],
)
def test_words_that_the_reference_does_not_have_are_marked(reference: str, text: str, differ: list[str]) -> None:
    pieces = marked(reference, text)
    assert "".join(piece.text for piece in pieces) == text
    assert [piece.text for piece in pieces if piece.differs] == differ


def test_a_finding_that_is_no_information_makes_the_banner_amber(tmp_path: Path) -> None:
    good = compared(tmp_path)
    found = judged(good)
    assert (found.state, found.word) == ("warn", "Passes its gates; look at")
    serious = [one for one in findings(good) if one.severity in ("defect", "look")]
    assert found.text.startswith(f"{len(serious)} things to judge. It passes all 4 gates")
    lost = good.candidate.manifest.generation.model_copy(update={"stop_token_ids": [32000]})
    manifest = good.candidate.manifest.model_copy(update={"generation": lost})
    broken = replace(good, candidate=replace(good.candidate, manifest=manifest))
    assert findings(broken)[0].severity == "defect"
    assert judged(broken).word == "Passes its gates; a probable defect"
    assert judged(broken).text.startswith(
        "Stop ids: 32000, 32007 becomes 32000: answers that ended with 32007 run on. "
    )
    whole = overall(Content("phi:1.1.0", (broken, good)))
    assert (whole.state, whole.word) == ("warn", "Passes its gates; a probable defect")
    assert whole.text.startswith("iphone-15, iphone-15: Stop ids: ")


def test_a_check_that_cannot_fail_is_none(tmp_path: Path) -> None:
    """Evidence of an older phipack has it as passed: a share is at most 1."""
    void = Check(
        group="degeneration", name="share of 3 answers: endless", passed=True, value=1, bound=4 / 3, unit="share"
    )
    cell = compared(tmp_path, details(checks=(*checks(), void)))
    assert verdict(cell.candidate).text == "all 4 gates and 10 checks of behaviour; 1 not run"
    found = cell.candidate.details
    assert found is not None
    assert [one.name for one in found.not_run] == [void.name]
    assert void not in found.checks


def test_where_the_evidence_before_can_not_be_read_nothing_is_called_no_worse(tmp_path: Path) -> None:
    cell = compared(tmp_path)
    unread = replace(cell.candidate, name="phi:1.0.0@iphone-15", evidence=None, problem="it was changed")
    alone = replace(cell, candidate=replace(cell.candidate, evidence=_quiet(cell)), baseline=unread)
    found = findings(alone)
    assert (found[0].severity, found[0].text) == (
        "look",
        "No figure and no answer is compared: the evidence of phi:1.0.0@iphone-15 can't be read: it was changed.",
    )
    assert judged(alone).state == "warn"


def _quiet(cell: CellContent) -> Evidence:
    """Return evidence in which no task has dropped and no refusal is gone."""
    assert cell.candidate.evidence is not None
    return cell.candidate.evidence.model_copy(update={"details": details(tasks=(), safety=())})
