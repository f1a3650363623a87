"""A release over a real store: outcomes as data, and a plan that says beforehand what will be."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builders.build_cache import BuildCache
from builders.checkpoint import Checkpoint
from builders.matrix.judging import CellOutcome
from builders.release import Release
from builders.validation.text import read_text
from devtools.bundles import make_evidence
from registry.bundle.folder import Bundle, verify
from registry.files import lock_wait
from registry.store.folder import FolderStore
from targets.calibration import CalibrationSettings
from targets.devices import target_named
from targets.errors import BuildError, CalibrationError, Failure, GateError, MeasurementError
from targets.evidence import FAILED_CHECKS, Evidence, Figure
from targets.gates import Gate
from targets.progress import WAIT, Event, Notice, Phase, Progress, Step, silent
from targets.project import Cell
from targets.recipes import recipe_named
from tests.support.cells import BRIEF, LOOSE, cell, no_build
from tests.support.folders import names_in
from tests.support.task_files import write


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def registered() -> list[str]:
    return []


@pytest.fixture
def release(tiny: Checkpoint, tmp_path: Path, events: list[Event], registered: list[str]) -> Release:
    return Release(
        checkpoint=tiny,
        settings=BRIEF,
        cache=BuildCache(tmp_path / "work"),
        store=FolderStore(tmp_path / "store"),
        register=lambda cell, _manifest, _evidence: registered.append(cell.name),
        on_progress=events.append,
    )


def run(release: Release, *cells: Cell) -> list[CellOutcome]:
    return list(release.run(cells))


def test_the_plan_is_what_the_run_then_does(release: Release, registered: list[str]) -> None:
    cells = (cell("phone"), cell("tablet"))
    before = release.plan(cells)
    assert [(plan.is_built, plan.is_measured, plan.problem) for plan in before] == [(False, False, None)] * 2
    assert not release.cache.root.exists()  # a plan writes nothing
    outcomes = run(release, *cells)
    assert [(outcome.built, outcome.measured) for outcome in outcomes] == [(True, True), (True, False)]
    assert registered == ["phone", "tablet"]
    for plan, outcome in zip(before, outcomes, strict=True):
        assert outcome.failures == ()
        assert outcome.manifest is not None
        assert outcome.evidence is not None
        assert plan.figures is not None
        assert plan.bundle_bytes == sum(file.bytes for file in outcome.manifest.files)
        assert plan.figures["artifact_bytes"].value == plan.bundle_bytes
        predicted = {name: figure for name, figure in plan.figures.items() if name != "artifact_bytes"}
        assert predicted.items() <= outcome.evidence.figures.items()
        assert set(predicted) == {"predicted_decode_tokens_per_second", "predicted_memory_bytes"}
        assert (plan.context_length, plan.open_gates) == (256, ("kl_mean",))
        assert [(gate.figure, gate.passed) for gate in plan.gates] == [("artifact_bytes", True)]
    after = release.plan(cells)
    assert [(plan.is_built, plan.is_measured, plan.open_gates) for plan in after] == [(True, True, ())] * 2
    assert [(outcome.built, outcome.measured) for outcome in run(release, *cells)] == [(False, False)] * 2


def test_releases_at_once_share_one_build_and_one_validation(
    release: Release, registered: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight of one project at once: half of them for one cell, half for another with the same bundle."""
    validated: list[str] = []

    def validate(bundle: Bundle, *_: object, **__: object) -> Evidence:
        validated.append(bundle.digest)
        for _ in range(20):  # which fails where another run removes the bundle
            verify(bundle)
        return make_evidence(bundle)

    monkeypatch.setattr("builders.matrix.work.validate", validate)
    monkeypatch.setattr("builders.matrix.work.check_before_building", lambda *_, **__: None)
    start = threading.Barrier(8)

    def one(number: int) -> CellOutcome:
        start.wait(30)
        (outcome,) = run(replace(release), cell(("phone", "tablet")[number % 2]))
        return outcome

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(one, range(8)))
    assert [outcome.problem for outcome in outcomes] == [None] * 8
    assert sum(outcome.built for outcome in outcomes) == sum(outcome.measured for outcome in outcomes) == 1
    assert len({outcome.manifest.digest for outcome in outcomes if outcome.manifest}) == len(validated) == 1
    assert sorted(registered) == ["phone"] * 4 + ["tablet"] * 4
    work = release.cache.root / "work"
    assert names_in(work) == ["bundles", "check.lock", "validation.lock"]
    records = [name.split("/")[1] for name in release.store.documents("actions/")]
    assert sorted(records) == ["build", "checkpoint", "validate"]
    assert names_in(work / "bundles") == []


@pytest.mark.parametrize("what", ["build", "validation"])
def test_who_waits_for_another_says_for_what(
    release: Release, events: list[Event], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(lock_wait, "NOTICE_SECONDS", 0.0)
    cache = release.cache

    def hold(on_progress: Progress = silent) -> AbstractContextManager[None]:
        return cache.building(["b", "a"], on_progress) if what == "build" else cache.validating(on_progress)

    def wait() -> None:
        with hold(events.append):
            pass

    with ThreadPoolExecutor(1) as pool:
        with hold():
            waiting = pool.submit(wait)
            while not events:
                time.sleep(0.01)
        waiting.result(10)
    said = {"build": f"builds the same in {cache.bundle_folder('a')}", "validation": "validates a bundle: it holds "}
    begun, event, over = events
    assert (begun, over) == (Phase(WAIT, begins=True), Phase(WAIT, begins=False))
    assert isinstance(event, Notice)
    assert event.text.startswith(f"waiting for another phipack, which {said[what]}")


def test_a_plan_reads_no_weight(release: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Checkpoint, phases: object = None) -> None:
        raise AssertionError("weights are opened to be read")

    monkeypatch.setattr(Checkpoint, "digest", property(refuse))  # nothing is cached: no need to hash either
    monkeypatch.setattr("builders.checkpoint.sources.ShardSource.tensor", refuse)
    monkeypatch.setattr("builders.checkpoint.sources.ShardSource.stored_tensor", refuse)
    assert [plan.problem for plan in release.plan((cell("phone"), cell("mac", "coreml-int4")))] == [None, None]


def test_a_gate_on_a_predicted_figure_fails_in_the_plan(release: Release) -> None:
    asked = {"cell": {"artifact_bytes": Gate(at_most=1), "kl_mean": Gate(at_most=1)}}
    (plan,) = release.plan((cell("phone", gates=asked),))
    assert [failure.cell for failure in plan.failures] == ["phone"]
    assert plan.failures[0].problem.startswith("artifact_bytes is ")


def test_a_cell_that_can_not_be_built_says_so_in_the_plan_and_in_the_run(release: Release) -> None:
    long = Cell("phone", target_named("iphone-15"), recipe_named("gguf-q8_0"), 1 << 20, LOOSE)
    (plan,) = release.plan((long,))
    (outcome,) = run(release, long)
    assert plan.problem is not None
    assert plan.failures == outcome.failures == (Failure("phone", plan.problem.problem),)
    assert (plan.bundle_bytes, plan.figures, outcome.manifest, outcome.evidence) == (None, None, None, None)


def test_every_gate_that_fails_is_one_failure_of_its_cell(release: Release, registered: list[str]) -> None:
    strict = {"project": {"kl_mean": Gate(at_most=1e-12), "same_top_share": Gate(at_least=1.1)}}
    outcomes = run(release, cell("strict", gates=strict), cell("loose"))
    assert isinstance(outcomes[0].problem, GateError)
    assert [failure.cell for failure in outcomes[0].failures] == ["strict", "strict"]
    assert [failure.problem.split()[0] for failure in outcomes[0].failures] == ["kl_mean", "same_top_share"]
    assert registered == ["loose"]


def test_what_the_registry_refuses_is_the_cells_own_problem(tiny: Checkpoint, tmp_path: Path) -> None:
    def refuse(*_: object) -> None:
        raise BuildError("no", fix="yes")

    store = FolderStore(tmp_path / "store")
    (outcome,) = run(Release(tiny, BRIEF, BuildCache(tmp_path / "work"), store, refuse), cell("phone"))
    assert outcome.failures == (Failure("phone", "no"),)
    assert outcome.evidence is not None


PHONE_READ = ("phone", "reference")


def test_steps_have_stable_names_and_the_cell_as_their_subject(release: Release, events: list[Event]) -> None:
    run(release, cell("phone"), cell("tablet", "gguf-q4_0"), cell("same as phone"))
    lines = list(dict.fromkeys((event.subject, event.name) for event in events if isinstance(event, Step)))
    assert not [event for event in events if isinstance(event, Notice)]
    steps = ["write", "hash", "store", "oracle", "open", "compare", "generate", "speed"]
    # The reference reads nothing for the second cell that it had not read for the first.
    assert sorted(lines) == sorted([*((name, step) for name in ("phone", "tablet") for step in steps), PHONE_READ])


def test_a_cell_that_can_not_pass_is_not_built(
    release: Release, monkeypatch: pytest.MonkeyPatch, registered: list[str]
) -> None:
    fast = {"target": {"predicted_decode_tokens_per_second": Gate(at_least=1e9)}, **LOOSE}
    large = {"cell": {"artifact_bytes": Gate(at_most=1)}, "project": {"kl_mean": Gate(at_most=1)}}
    blind = {"project": {"artifact_bytes": Gate(at_most=1e9)}}
    untaken = {"project": {"kl_mean": Gate(at_most=1), "task_drop": Gate(at_most=0.02)}}
    gates = {"fast": fast, "large": large, "blind": blind, "untaken": untaken}
    cells = [cell(name, gates=asked) for name, asked in gates.items()]
    plans = release.plan(cells)
    with monkeypatch.context() as patched:
        patched.setattr("builders.matrix.work.build_each", no_build)
        outcomes = run(release, *cells)
    assert [outcome.failures for outcome in outcomes] == [plan.failures for plan in plans]
    said = [outcome.failures[0].problem for outcome in outcomes]
    assert said[0].startswith("predicted_decode_tokens_per_second is ")
    assert said[0].endswith("must be >= 1e+09 (asked by target)")
    assert said[1].startswith("artifact_bytes is ")
    assert said[2] == "it has no gate on accuracy"
    assert said[3].endswith('; no questions are asked: set tasks = "FOLDER" under [evaluation]')
    assert registered == []
    assert run(release, cell("fast"))[0].problem is None


def test_what_stands_against_a_measured_cell_is_known_before_it_is_run_again(release: Release) -> None:
    assert run(release, cell("phone"))[0].problem is None
    blind = cell("blind", gates={"project": {"artifact_bytes": Gate(at_most=1e9)}})
    late = cell("late", gates={"project": {"artifact_bytes": Gate(at_most=1)}})
    missing = cell("missing", gates={"project": {**LOOSE["project"], "code_kl_mean": Gate(at_most=1)}})
    plans = release.plan((cell("phone"), blind, late, missing))
    assert all(plan.is_measured for plan in plans)
    assert plans[0].failures == ()
    assert plans[1].failures == (Failure("blind", "it has no gate on accuracy"),)
    assert plans[2].failures[0].problem.startswith("artifact_bytes is ")
    assert plans[3].failures[0].problem.startswith("code_kl_mean is not known")
    outcomes = run(release, blind, late, missing)
    assert all(outcome.manifest is not None for outcome in outcomes)  # the bundle is reported
    assert [len(outcome.failures) for outcome in outcomes] == [1, 1, 1]
    assert (outcomes[0].failures, outcomes[2].failures) == (plans[1].failures, plans[3].failures)


def test_a_failed_check_of_a_measured_cell_is_known_before_it_is_run_again(
    release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    (outcome,) = run(release, cell("phone"))
    assert outcome.evidence is not None
    figures = outcome.evidence.figures
    failed = Figure(value=2, unit="", kind="measured", on="the behaviour suite")
    recorded = outcome.evidence.model_copy(update={"figures": figures | {FAILED_CHECKS: failed}, "gates": []})
    monkeypatch.setattr("builders.matrix.cell_plan.recorded_evidence", lambda *_: recorded)
    allowed = cell("allowed", gates={"project": {**LOOSE["project"], FAILED_CHECKS: Gate(at_most=2)}})
    plans = release.plan((cell("phone"), allowed))
    assert plans[0].failures == (Failure("phone", "2 checks of the behaviour suite failed"),)
    assert plans[1].failures == ()


def test_a_lower_bound_on_the_size_is_left_to_the_built_bundle(release: Release) -> None:
    """With its manifest, a bundle is larger than planned."""
    planned = release.plan((cell("phone"),))[0].bundle_bytes
    assert planned is not None
    gates = {"cell": {"artifact_bytes": Gate(at_least=planned + 1)}, "project": {"kl_mean": Gate(at_most=1)}}
    (outcome,) = run(release, cell("phone", gates=gates))
    assert outcome.failures == ()


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"text": Path("nowhere.txt")}, r"nowhere\.txt: evaluation text can't be read"),
        ({"tokens": 1 << 20}, r"the evaluation text has \d+ tokens; \d+ windows of 64 need \d+"),
        ({"window": 1}, "windows of 1 tokens are too short"),
    ],
)
def test_a_text_that_will_not_do_is_refused_before_anything_is_built(
    release: Release, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], problem: str
) -> None:
    monkeypatch.setattr("builders.matrix.work.build_each", no_build)
    changed = replace(release, settings=replace(BRIEF, **settings))
    with pytest.raises(MeasurementError, match=problem):  # noqa: PT012 - of all cells, or of each
        outcomes = run(changed, cell("phone"), cell("tablet", "gguf-q4_0"))
        assert len({outcome.failures[0].problem for outcome in outcomes}) == 1
        raise outcomes[0].problem or AssertionError("it passed")


def test_a_calibrated_cell_is_built_so_and_its_plan_says_so(release: Release, registered: list[str]) -> None:
    cells = (cell("phone", "onnx-int4", calibration="light"), cell("tablet", "onnx-int4"))
    assert [plan.calibration for plan in release.plan(cells)] == ["light", "none"]
    light, plain = run(release, *cells)
    assert (light.calibration, plain.calibration) == ("light", "none")
    assert light.manifest is not None
    assert plain.manifest is not None
    assert light.manifest.recipe.calibration is not None
    assert plain.manifest.recipe.calibration is None
    assert light.manifest.digest != plain.manifest.digest
    assert [plan.is_built for plan in release.plan(cells)] == [True, True]
    assert registered == ["phone", "tablet"]


def test_a_calibration_text_with_passages_of_the_evaluation_is_refused_before_anything_is_built(
    release: Release, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("builders.matrix.work.build_each", no_build)
    (tmp_path / "same.txt").write_text(read_text(None), "utf-8")
    changed = replace(release, calibration=CalibrationSettings(tmp_path / "same.txt"))
    calibrated = cell("phone", "onnx-int4", calibration="light")
    for begin in (changed.plan, changed.coordinator.plan_jobs, changed.run):
        with pytest.raises(CalibrationError, match=r"same\.txt and the built-in text, .* share passages: 100 %"):
            list(begin((calibrated,)))  # type: ignore[call-overload] - plans of three kinds
    assert [plan.problem for plan in changed.plan((cell("phone"),))] == [None]  # which reads no calibration text


def test_so_is_one_of_the_built_in_text_or_of_the_questions(release: Release, tmp_path: Path) -> None:
    """Long sequences are read from the built-in text where the evaluation's own is too short; tasks are asked, too."""
    (tmp_path / "own.txt").write_text("".join(f"line {number} of a text of ours\n" for number in range(99)), "utf-8")
    questions = [
        f"Question {number}: what is {number} times {number + 7}, and why is that so? A long answer."
        for number in range(99)
    ]
    header = {"schema": "phipack.task/1", "task": "sums", "licence": "MIT", "source": "us"}
    rows = [{"prompt": one, "choices": ["a", "b"], "answer": 0} for one in questions]
    write(tmp_path / "tasks" / "sums.jsonl", header, *rows)
    settings = replace(BRIEF, text=tmp_path / "own.txt", tasks=tmp_path / "tasks")
    for learned, met in ((read_text(None), "the built-in text"), ("\n".join(questions), "task sums")):
        (tmp_path / "learned.txt").write_text(learned, "utf-8")
        changed = replace(release, settings=settings, calibration=CalibrationSettings(tmp_path / "learned.txt"))
        with pytest.raises(CalibrationError, match=rf"learned\.txt and {met}, .* share passages"):
            changed.plan((cell("phone", "onnx-int4", calibration="light"),))


def test_a_checkpoint_that_is_misread_is_refused_before_anything_is_built(
    release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builders.matrix.work.build_each", no_build)
    theta = release.checkpoint.architecture.rope_theta * 2
    misread = replace(release.checkpoint, architecture=replace(release.checkpoint.architecture, rope_theta=theta))
    (outcome,) = run(replace(release, checkpoint=misread), cell("phone"))
    assert isinstance(outcome.problem, MeasurementError)


def test_a_disk_without_room_for_a_bundle_is_noticed_before_it_is_built(
    release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builders.matrix.work.build_each", no_build)
    monkeypatch.setattr("builders.matrix.cell_plan.free_bytes", lambda _: 1000)
    (outcome,) = run(release, cell("phone"))
    assert isinstance(outcome.problem, BuildError)
    assert "GB left" in outcome.problem.problem


def test_work_may_be_a_link_of_ones_own_to_a_larger_disk(
    release: Release, registered: list[str], tmp_path: Path
) -> None:
    release.cache.root.mkdir()
    for name in ("work", "cache"):
        (release.cache.root / name).symlink_to(tmp_path / "larger disk" / name)
    assert [outcome.measured for outcome in run(release, cell("phone"))] == [True]
    assert [outcome.measured for outcome in run(release, cell("phone"))] == [False]
    assert registered == ["phone", "phone"]
    assert (tmp_path / "larger disk" / "work" / "bundles").is_dir()


def test_what_is_known_to_fail_is_said_before_the_first_build(
    release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builders.matrix.work.build_each", no_build)
    slow = cell("slow", gates={"cell": {"predicted_decode_tokens_per_second": Gate(at_least=1e9)}, **LOOSE})
    outcomes = release.run((cell("phone"), slow))
    first = next(iter(outcomes))
    assert (first.cell, isinstance(first.problem, GateError)) == ("slow", True)
