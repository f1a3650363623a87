"""Jobs done on this machine: once, by whoever comes first, and not where they would be other jobs."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders.build_cache import BuildCache
from builders.checkpoint import Checkpoint
from builders.matrix.cell_plan import CellPlanner, Inputs
from builders.matrix.graph import Job, Needs
from builders.matrix.planning import plan_release
from builders.matrix.records import CheckpointFacts, built_bundle, recorded_checkpoint
from builders.matrix.work import Site, require_labels, run_builds, run_job, run_jobs
from builders.quantization.calibration import measure
from builders.quantization.calibration.measure import MeasuredStatistics
from builders.quantization.calibration.walks import CalibrationWalk
from builders.reference.number_file import read_numbers, write_numbers
from devtools.bundles import make_evidence
from registry.bundle.folder import Bundle
from registry.store.folder import FolderStore
from targets.budget import Budget
from targets.calibration import CALIBRATIONS, CalibrationSettings
from targets.errors import BuildError, CalibrationError, MeasurementError, ReleaseError
from targets.evaluation import EvaluationSettings
from targets.evidence import Evidence
from targets.project import Cell
from tests.support.cells import BRIEF, cell, no_build

Machine = Callable[[str], Site]
PHONE = cell("phone")
LIGHT = cell("phone", "onnx-int4", calibration="light")


@pytest.fixture
def machine(tiny: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Machines with folders of their own, and one store. What is measured is made up."""

    def measure(bundle: Bundle, *_: object, **__: object) -> Evidence:
        return make_evidence(bundle).model_copy(update={"checkpoint": bundle.manifest.checkpoint})

    monkeypatch.setattr("builders.matrix.work.validate", measure)
    monkeypatch.setattr("builders.matrix.work.check_before_building", lambda *_, **__: None)
    return lambda name: Site(tiny, BRIEF, BuildCache(tmp_path / name), FolderStore(tmp_path / "store"))


def jobs_of(site: Site, settings: EvaluationSettings = BRIEF, cell: Cell = PHONE) -> tuple[Job, Job]:
    inputs = Inputs(site.checkpoint, settings, site.store, site.calibration)
    plan = plan_release(CellPlanner(inputs), [cell])
    build, validation = (job for job in plan.graph if job.kind != "calibrate")
    return build, validation


def calibrations_of(site: Site, *cells: Cell) -> list[Job]:
    plan = plan_release(CellPlanner(site.inputs), cells)
    return [job for job in plan.graph if job.kind == "calibrate"]


def test_a_job_is_done_once_by_any_machine(machine: Machine) -> None:
    build, validation = jobs_of(machine("a"))
    assert (build.is_done, validation.is_done) == (False, False)
    assert validation.after == (build.name,)
    assert [run_job(build, machine("a")), run_job(build, machine("b"))] == [True, False]
    assert [run_job(validation, machine("b")), run_job(validation, machine("a"))] == [True, False]
    build, validation = jobs_of(machine("c"))
    assert (build.is_done, validation.is_done) == (True, True)
    checkpoint = machine("a").checkpoint
    facts = CheckpointFacts(checkpoint.architecture, checkpoint.digest, None)
    assert recorded_checkpoint(machine("a").store, checkpoint.digest) == facts


def test_two_machines_that_build_the_same_at_once_both_finish(machine: Machine) -> None:
    build, _ = jobs_of(machine("a"))
    start = threading.Barrier(2)

    def one(name: str) -> bool:
        start.wait(30)
        return run_job(build, machine(name))

    with ThreadPoolExecutor(2) as pool:
        assert any(pool.map(one, "ab"))
    assert built_bundle(machine("a").store, build.key) is not None
    assert len(list(machine("a").store.documents("actions/build/"))) == 1


def test_a_job_of_other_inputs_is_refused(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builders.matrix.work.build_each", no_build)
    build, validation = jobs_of(machine("a"), replace(BRIEF, tokens=64))
    for job in (replace(build, key="0" * 32), validation):
        with pytest.raises(ReleaseError, match="was planned with other versions of the tools, another checkpoint"):
            run_job(job, machine("a"))


def test_a_text_that_is_changed_meanwhile_is_not_what_was_read(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by `git pull` while a release runs: its record would say that the text before was read."""
    text = tmp_path / "text.txt"
    text.write_text("Words that a model reads. " * 200, "utf-8")
    settings, calibration = replace(BRIEF, text=text), CalibrationSettings(text)
    site = replace(machine("a"), settings=settings)
    build, validation = jobs_of(site, settings)
    assert run_job(build, site)

    def edit(bundle: Bundle, *_: object, **__: object) -> Evidence:
        text.write_text("Other words of another text. " * 200, "utf-8")
        return make_evidence(bundle).model_copy(update={"checkpoint": bundle.manifest.checkpoint})

    monkeypatch.setattr("builders.matrix.work.validate", edit)
    with pytest.raises(ReleaseError, match="was changed meanwhile"):
        run_job(validation, site)
    assert list(site.store.documents("actions/validate/")) == []
    site = replace(machine("a"), calibration=calibration)
    build, _ = jobs_of(site, cell=replace(LIGHT, recipe=PHONE.recipe, calibration="light"))
    text.write_text("Words that a model reads. " * 200, "utf-8")
    (result,) = run_builds([build], site).values()
    assert "was changed meanwhile" in str(result)
    assert len(list(site.store.documents("actions/build/"))) == 1


def test_a_job_for_another_kind_of_machine_is_refused(machine: Machine) -> None:
    _, validation = jobs_of(machine("a"))
    require_labels(validation)
    with pytest.raises(ReleaseError, match="needs a machine with android") as error:
        require_labels(replace(validation, needs=Needs(frozenset({"android"}))))
    assert f"--job {validation.name}" in error.value.fix


def test_a_validation_without_its_bundle_names_the_build(machine: Machine) -> None:
    build, validation = jobs_of(machine("a"))
    with pytest.raises(ReleaseError, match="the store does not have its bundle") as error:
        run_job(validation, machine("a"))
    assert build.name in error.value.fix


def test_what_comes_after_a_failed_build_is_not_tried(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    full = BuildError("no space left", fix="free space")
    monkeypatch.setattr("builders.matrix.work.build_each", lambda requests, **_: dict.fromkeys(requests, full))
    results = list(run_jobs(jobs_of(machine("a")), machine("a")))
    assert results[0][1] is full
    assert isinstance(results[1][1], ReleaseError)
    assert "was not tried" in results[1][1].problem


def test_a_calibrated_build_is_another_job_and_its_validation_too(machine: Machine, tmp_path: Path) -> None:
    """An uncalibrated one is the same job whatever the calibration's text is."""
    plain, light = (jobs_of(machine("a"), cell=cell("phone", "onnx-int4", calibration=one)) for one in CALIBRATIONS[:2])
    assert [job.name.rpartition("-")[0] for job in light] == [
        "build-onnx-int4-light-256",
        "validate-onnx-int4-light-256",
    ]
    assert [job.calibration for job in (*plain, *light)] == ["none", "none", "light", "light"]
    assert {job.key for job in plain}.isdisjoint({job.key for job in light})
    (tmp_path / "mine.txt").write_text("my text", "utf-8")
    mine = replace(machine("a"), calibration=CalibrationSettings(tmp_path / "mine.txt"))
    assert [job.key for job in jobs_of(mine, cell=cell("phone", "onnx-int4"))] == [job.key for job in plain]
    keys = [jobs_of(site, cell=LIGHT)[0].key for site in (machine("a"), machine("b"), mine)]
    assert keys[0] == keys[1] != keys[2]


def test_a_calibrated_job_of_another_text_is_refused(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("my text", "utf-8")
    build, _ = jobs_of(machine("a"), cell=LIGHT)
    with pytest.raises(ReleaseError, match="was planned with other versions of the tools"):
        run_job(build, replace(machine("a"), calibration=CalibrationSettings(tmp_path / "mine.txt")))


def test_calibrated_builds_are_estimated_by_their_own_kind(machine: Machine) -> None:
    site = machine("a")
    builds = [jobs_of(site, cell=cell("phone", "onnx-int4", calibration=one))[0] for one in CALIBRATIONS]
    assert builds[0].needs.seconds == builds[1].needs.seconds < builds[2].needs.seconds  # light searches as fast
    assert builds[0].needs.disk_bytes == builds[1].needs.disk_bytes < builds[2].needs.disk_bytes
    assert run_job(builds[1], site)
    again = [jobs_of(site, cell=cell("phone", "onnx-int4", calibration=one))[0] for one in CALIBRATIONS]
    assert [before.needs.seconds == after.needs.seconds for before, after in zip(builds, again, strict=True)] == [
        *(True, False, True),
    ]
    manifest = built_bundle(site.store, builds[1].key)
    assert manifest is not None
    assert manifest.recipe.calibration is not None
    assert (manifest.recipe.calibration.level, manifest.recipe.calibration.tokens) == ("light", 2048)


def test_a_calibration_that_fails_fails_its_own_job(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("too short a text to learn from", "utf-8")
    site = replace(machine("a"), calibration=CalibrationSettings(tmp_path / "short.txt"))
    plan = plan_release(CellPlanner(site.inputs), [LIGHT, cell("tablet")])
    builds = [job for job in plan.graph if job.kind == "build"]
    results = {job.cells[0]: result for job, result in run_jobs(builds, site)}
    assert results["tablet"] is True
    assert isinstance(results["phone"], CalibrationError)
    assert list((site.cache.work_folder / "bundles").iterdir()) == []


def test_what_jobs_took_is_what_is_estimated_next(machine: Machine) -> None:
    site = machine("a")
    before, _ = jobs_of(site)
    run_job(before, site)
    after, _ = jobs_of(site)
    assert after.needs.seconds != before.needs.seconds
    assert 0 < after.needs.seconds < 600  # what it took, and not the rate of a model a million times as large
    assert after.needs.disk_bytes >= before.needs.disk_bytes > 0


BUDGET = replace(LIGHT, name="budget", recipe=replace(LIGHT.recipe, budget=Budget.of_bits(6.0)))


def test_cells_share_a_calibration_and_builds_come_after_it(machine: Machine) -> None:
    site = machine("a")
    others = [
        cell("full", "onnx-int4", calibration="full"),
        cell("gguf", "gguf-q4_0", calibration="light"),
        cell("plain"),
    ]
    jobs = plan_release(CellPlanner(site.inputs), [LIGHT, BUDGET, *others]).graph
    after = {job.cells[0]: [jobs.by_name[name].walk.label for name in job.after] for job in jobs if job.kind == "build"}
    assert after == {
        "phone": ["light"],
        "budget": ["light", "sensitivities-affine"],
        "full": ["full"],
        "gguf": ["light"],
        "plain": [],
    }
    cells = {job.walk.label: job.cells for job in jobs if job.kind == "calibrate"}
    assert cells == {
        "light": ("phone", "budget", "gguf"),
        "sensitivities-affine": ("budget",),
        "full": ("full",),
    }


def test_a_checkpoint_that_is_misread_is_not_calibrated(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would take an hour, for bundles that no validation accepts."""
    site = machine("a")
    (walk,) = calibrations_of(site, LIGHT)
    refused = MeasurementError("read differently", fix="…")

    def refuse(*_: object, **__: object) -> None:
        raise refused

    with monkeypatch.context() as misread:
        misread.setattr("builders.matrix.work.check_before_building", refuse)
        assert list(run_jobs([walk], site)) == [(walk, refused)]
        assert not site.cache.reference_folder.exists()
    assert run_job(walk, site)
    monkeypatch.setattr("builders.matrix.work.check_before_building", refuse)
    assert not run_job(walk, site)  # recorded: there is nothing left to do, or to refuse


def test_what_one_machine_has_measured_another_builds_from(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files themselves are taken, so machines whose processors differ build the same bytes."""
    site = machine("a")
    walks = calibrations_of(site, BUDGET)
    assert [run_job(job, site) for job in walks] == [True, True]
    assert [job.is_done for job in calibrations_of(machine("b"), BUDGET)] == [True, True]
    for name in ("builders.calibrate.measured_statistics", "builders.calibrate.measured_sensitivities"):
        monkeypatch.setattr(name, only_from_the_cache(name))
    other = machine("b")
    assert [run_job(job, other) for job in walks] == [False, False]
    build, _ = jobs_of(other, cell=BUDGET)
    assert run_job(build, other)
    kept = [sorted(path.name for path in one.cache.reference_folder.glob("*.s*")) for one in (site, other)]
    assert kept[0] == kept[1]
    assert len(kept[0]) == 2
    assert calibrations_of(other, BUDGET) == []  # nothing is left to build with them


def test_builds_that_are_done_at_once_measure_what_they_share_once_and_record_it(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a release in one process does them."""
    site, levels = machine("a"), list[str]()
    original = measure.measured_statistics

    def counted(*arguments: Any) -> MeasuredStatistics:
        levels.append(arguments[1])
        return original(*arguments)

    monkeypatch.setattr("builders.calibrate.measured_statistics", counted)
    cells = [LIGHT, cell("gguf", "gguf-q4_0", calibration="light")]
    jobs = plan_release(CellPlanner(site.inputs), cells).graph
    builds = [job for job in jobs if job.kind == "build"]
    assert run_builds(builds, site) == {job.name: True for job in builds}
    assert levels == ["light"]
    (walk,) = (job for job in jobs if job.kind == "calibrate")
    assert list(site.store.documents("actions/calibrate/")) == [f"actions/calibrate/{walk.key}.json"]
    assert not run_job(walk, machine("b"))


def test_ranges_at_special_tokens_are_measured_by_one_machine(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scales of a KV cache follow from them, and so do the bytes of every cell that has one."""
    first, second = machine("a"), machine("b")
    one = replace(LIGHT, recipe=replace(LIGHT.recipe, kv_cache="int8"))
    build, _ = jobs_of(first, cell=one)
    assert run_job(build, first)
    names = "builders.calibrate.measured_statistics", "builders.calibrate.with_cache_ranges"
    for name in names:
        monkeypatch.setattr(name, only_from_the_cache(name))
    other, _ = jobs_of(second, cell=replace(one, context_length=128))
    assert run_job(other, second)
    here, there = ({path.name for path in site.cache.reference_folder.glob("*.squares")} for site in (first, second))
    assert here == there
    assert len(here) == 2


def only_from_the_cache(name: str) -> Callable[..., Any]:
    """Return what measures, with a progress that refuses every step of a walk."""
    room, _, function = name.rpartition(".")
    original = getattr(importlib.import_module(room), function)

    def checked(*arguments: Any) -> Any:
        return original(*arguments[:-1], refuse_steps)

    return checked


def refuse_steps(event: object) -> None:
    raise AssertionError(f"something is measured: {event}")


def test_a_calibration_that_another_machine_has_recorded_first_counts(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = machine("a"), machine("b")
    (job,) = calibrations_of(first, LIGHT)
    original = measure.measured_statistics
    seen: list[MeasuredStatistics] = []

    def overtaken(*arguments: Any) -> MeasuredStatistics:
        """Measure other numbers than the first machine, which records its own meanwhile."""
        found = original(*arguments)
        if not seen:
            monkeypatch.setattr("builders.calibrate.measured_statistics", original)
            assert run_job(job, first)
            monkeypatch.setattr("builders.calibrate.measured_statistics", overtaken)
            (kept,) = second.cache.reference_folder.glob("*.squares")
            write_numbers(kept, [read_numbers(kept) * np.float32(1.5)])
        seen.append(found)
        return found

    monkeypatch.setattr("builders.calibrate.measured_statistics", overtaken)
    assert not run_job(job, second)
    assert len(seen) == 2
    (here,), (there,) = (one.cache.reference_folder.glob("*.squares") for one in (first, second))
    assert here.read_bytes() == there.read_bytes()


def test_a_calibration_of_which_a_file_is_gone_is_done_again(machine: Machine) -> None:
    site = machine("a")
    (job,) = calibrations_of(site, LIGHT)
    assert run_job(job, site)
    (blob,) = site.store.blobs()
    assert site.store.remove(blob.digest, seconds=0)
    assert [one.is_done for one in calibrations_of(site, LIGHT)] == [False]
    assert run_job(job, site)
    assert [one.is_done for one in calibrations_of(site, LIGHT)] == [True]


def test_a_file_that_is_gone_before_it_is_recorded_is_an_error_of_ours(machine: Machine, tmp_path: Path) -> None:
    site = machine("a")
    with pytest.raises(BuildError, match=r"gone\.squares can't be read"):
        site.walks.add(CalibrationWalk("light"), tmp_path, ["gone.squares"], 1.0)
    assert list(site.store.documents("actions/")) == []


def test_a_calibration_of_another_text_is_refused(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("my text", "utf-8")
    (job,) = calibrations_of(machine("a"), LIGHT)
    with pytest.raises(ReleaseError, match=r"other versions of the tools.*torch"):
        run_job(job, replace(machine("a"), calibration=CalibrationSettings(tmp_path / "mine.txt")))


def test_a_build_is_not_tried_where_its_calibration_failed(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builders.matrix.work.build_each", no_build)
    (tmp_path / "short.txt").write_text("too short", "utf-8")
    site = replace(machine("a"), calibration=CalibrationSettings(tmp_path / "short.txt"))
    jobs = plan_release(CellPlanner(site.inputs), [LIGHT, cell("plain")]).graph.jobs
    monkeypatch.setattr("builders.matrix.work.run_builds", lambda jobs, _site: dict.fromkeys([j.name for j in jobs], 1))
    results = {job.kind + job.recipe: result for job, result in run_jobs(jobs, site)}
    assert isinstance(results["calibrate"], CalibrationError)
    assert "was not tried: calibrate-light-" in str(results["buildonnx-int4"])
    assert "was not tried: build-onnx-int4-" in str(results["validateonnx-int4"])
    assert results["buildgguf-q8_0"] == 1
