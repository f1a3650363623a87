"""Measurements as jobs: where a gate asks for one, on a machine with such a phone, once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from builders.build_cache import BuildCache
from builders.checkpoint import Checkpoint
from builders.devices import providers
from builders.devices.provider import FoundDevice, MeasureRequest, State
from builders.matrix.cell_plan import CellPlanner, Inputs
from builders.matrix.graph import Job
from builders.matrix.grouping import group_jobs
from builders.matrix.planning import plan_release
from builders.matrix.work import Site, missing_labels, run_job
from registry.store.folder import FolderStore
from targets.devices import target_named
from targets.errors import ReleaseError, SetupError
from targets.gates import Gate
from targets.measurement import DeviceEntry, Measurement, RuntimeEntry, SampledFigure, SettingsEntry
from targets.project import Cell
from tests.support.cells import BRIEF, cell

FAST = {"project": {"device_decode_tokens_per_second": Gate(at_least=12), "kl_mean": Gate(at_most=9)}}


class DeskOfPhones:
    """A provider with made-up phones; what it has measured, by device and bundle."""

    scheme = "adb"

    def __init__(self, *phones: tuple[str, str, State]) -> None:
        self.phones = phones
        self.measured: list[tuple[str, str, Path | None]] = []

    def devices(self) -> Sequence[FoundDevice]:
        return [
            FoundDevice(f"adb:{number}", state, entry_of(model, soc))
            for number, (model, soc, state) in enumerate(self.phones)
        ]

    def measure(self, name: str, request: MeasureRequest) -> Measurement:
        self.measured.append((name, request.bundle.digest, request.runtime))
        device = self.devices()[int(name)].entry
        assert device is not None
        return Measurement(
            schema="phipack.measurement/1",
            match="digest",
            bundle=request.bundle.digest,
            device=device,
            runtime=RuntimeEntry(name="llama.cpp"),
            settings=SettingsEntry(),
            figures={
                "device_decode_tokens_per_second": SampledFigure.median("device_decode_tokens_per_second", [13.0])
            },
            throttled=None,
            source="adb",
            tool="made up",
        )


def entry_of(model: str, soc: str) -> DeviceEntry:
    return DeviceEntry(model=model, os="Android", soc=soc, target={"SM-S921U": "galaxy-s24"}.get(model))


@pytest.fixture
def site(tiny: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setattr("builders.matrix.work.check_before_building", lambda *_, **__: None)
    monkeypatch.setenv("PHIPACK_DEVICE_PROGRAMS", str(tmp_path / "programs"))
    return Site(tiny, BRIEF, BuildCache(tmp_path / "home"), FolderStore(tmp_path / "store"))


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> DeskOfPhones:
    desk = DeskOfPhones(("SM-S921U", "Snapdragon 8 Gen 3", "offline"), ("X", "Snapdragon 8 Gen 3", "ready"))
    monkeypatch.setattr(providers, "PROVIDERS", {"adb": lambda: desk})
    return desk


def jobs_of(site: Site, one: Cell) -> list[Job]:
    planner = CellPlanner(Inputs(site.checkpoint, BRIEF, site.store))
    return list(plan_release(planner, [one]).graph)


def fast_cell() -> Cell:
    return replace(cell("phone", gates=FAST), target=target_named("galaxy-s24"))


def test_only_a_gate_on_a_device_makes_a_measurement(site: Site) -> None:
    assert [job.kind for job in jobs_of(site, cell("phone"))] == ["build", "validate"]
    build, _, measure = jobs_of(site, fast_cell())
    assert (measure.kind, measure.after, measure.target) == ("measure", (build.name,), "galaxy-s24")
    assert measure.needs.labels == {"android"}
    assert measure.name.startswith("measure-")


def test_a_phone_with_the_chip_measures_and_the_job_is_done_for_all(site: Site, desk: DeskOfPhones) -> None:
    build, _, measure = jobs_of(site, fast_cell())
    run_job(build, site)

    assert run_job(measure, site)

    ((device, bundle, programs),) = desk.measured
    assert (device, programs) == ("1", Path(site.cache.root).parent / "programs")
    *_, measure = jobs_of(site, fast_cell())
    assert measure.is_done
    assert site.store.has_bundle(bundle)
    assert not list(site.cache.work_folder.glob("bundles/*/"))


def test_a_phone_that_calls_the_chip_by_its_number_measures_too(site: Site, desk: DeskOfPhones) -> None:
    desk.phones = (("SM-S921U", "QTI SM8650", "ready"),)
    other = replace(fast_cell(), target=target_named("oneplus-12"))
    build, _, measure = jobs_of(site, other)
    run_job(build, site)
    assert run_job(measure, site)
    *_, measure = jobs_of(site, other)
    assert measure.is_done


def test_the_very_phone_goes_before_one_with_its_chip(site: Site, desk: DeskOfPhones) -> None:
    desk.phones = (*desk.phones, ("SM-S921U", "another name of it", "ready"))
    build, _, measure = jobs_of(site, fast_cell())
    run_job(build, site)
    run_job(measure, site)
    assert [device for device, *_ in desk.measured] == ["2"]


def test_without_such_a_phone_the_job_is_refused_before_any_work(site: Site, desk: DeskOfPhones) -> None:
    desk.phones = (("SM-S921U", "Snapdragon 8 Gen 3", "unauthorized"), ("Y", "Tensor G4", "ready"))
    build, _, measure = jobs_of(site, fast_cell())
    assert missing_labels(build) == []
    assert missing_labels(measure) == ["android"]
    run_job(build, site)
    with pytest.raises(ReleaseError, match="needs a machine with android: galaxy-s24, or another device with Snap"):
        run_job(measure, site)
    assert desk.measured == []


def test_programs_for_the_phone_are_asked_for(site: Site, desk: DeskOfPhones, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PHIPACK_DEVICE_PROGRAMS")
    build, _, measure = jobs_of(site, fast_cell())
    run_job(build, site)
    with pytest.raises(SetupError, match="PHIPACK_DEVICE_PROGRAMS is not set"):
        run_job(measure, site)


def test_a_measurement_has_a_group_of_its_own(site: Site) -> None:
    planner = CellPlanner(Inputs(site.checkpoint, BRIEF, site.store))
    groups = group_jobs(plan_release(planner, [fast_cell(), cell("other")]).graph)
    assert [(group.labels, [job.kind for job in group.jobs]) for group in groups] == [
        ((), ["build", "validate"]),
        (("android",), ["measure"]),
    ]
