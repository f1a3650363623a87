"""A release's work as it is sent to workers: which packages a job takes, and that texts are the same there."""

from __future__ import annotations

import pickle
from functools import partial
from importlib.metadata import version
from pathlib import Path

import pytest

from builders.build_cache import BuildCache
from builders.checkpoint import Checkpoint
from builders.checkpoint.adapter import merge
from builders.matrix.cell_plan import CellPlanner, Inputs
from builders.matrix.cluster.task import Place, UnfitMachineError
from builders.matrix.cluster.work import ReleaseWork, release_work
from builders.matrix.keys import validation_key
from builders.matrix.planning import plan_release
from builders.matrix.work import Site
from registry.store.folder import FolderStore
from targets.calibration import CalibrationSettings
from targets.progress import silent
from tests.support.adapters import write_adapter
from tests.support.cells import BRIEF, cell

LIGHT = cell("phone", "onnx-int4", calibration="light")


@pytest.fixture
def mine(tmp_path: Path) -> CalibrationSettings:
    (tmp_path / "mine.txt").write_text("my text " * 1000, "utf-8")
    return CalibrationSettings(tmp_path / "mine.txt")


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    (tmp_path / "store").mkdir()
    return FolderStore(tmp_path / "store")


def work(checkpoint: Checkpoint, store: FolderStore, calibration: CalibrationSettings | None) -> ReleaseWork:
    return release_work(checkpoint, BRIEF, store, (checkpoint.path, None), None, calibration)


def test_a_calibrated_build_takes_what_measures_it(
    tiny: Checkpoint, store: FolderStore, mine: CalibrationSettings
) -> None:
    inputs = Inputs(tiny, BRIEF, store, mine)
    calibration, light, _ = plan_release(CellPlanner(inputs), [LIGHT]).graph
    plain, _ = plan_release(CellPlanner(inputs), [cell("phone", "onnx-int4")]).graph
    packages = [work(tiny, store, mine).packages(job) for job in (light, plain, calibration)]
    assert packages[0] == packages[1] | {"torch": version("torch")}
    assert packages[2] == {name: version(name) for name in ("torch", "numpy")}


@pytest.mark.parametrize("recipe", ["gguf-q4_0", "onnx-int4", "coreml-int4"])
def test_a_job_takes_every_package_whose_version_is_in_its_key(
    tiny: Checkpoint, store: FolderStore, mine: CalibrationSettings, monkeypatch: pytest.MonkeyPatch, recipe: str
) -> None:
    """A worker with another version would refuse the job, which would then have failed: it goes to another worker."""
    site = Site(tiny, BRIEF, BuildCache(), store, calibration=mine)
    one = cell("phone", recipe, calibration="light")
    for job in plan_release(CellPlanner(site.inputs), [one]).graph:
        packages = work(tiny, store, mine).packages(job)
        asked = set()

        def other(name: str, asked: set[str] = asked) -> str:
            asked.add(name)
            return version(name)

        with monkeypatch.context() as patched:
            patched.setattr("builders.matrix.keys.version", other)
            assert site.key(job) == job.key
        assert packages == {name: version(name) for name in asked}, job.name


def test_a_validation_of_a_merge_is_of_a_version_of_peft(
    tiny: Checkpoint, store: FolderStore, mine: CalibrationSettings, tmp_path: Path
) -> None:
    """The reference of a base with an adapter is held to peft's merge."""
    folder = write_adapter(tiny.path, tmp_path / "adapter")
    merged = merge(tiny, folder)
    asked = release_work(merged, BRIEF, store, (tiny.path, folder), None, mine)
    for checkpoint, made in ((merged, asked), (tiny, work(tiny, store, mine))):
        site = Site(checkpoint, BRIEF, BuildCache(), store, calibration=mine)
        for job in plan_release(CellPlanner(site.inputs), [cell("phone", "onnx-int4")]).graph:
            assert ("peft" in made.packages(job)) == (checkpoint is merged and job.kind == "validate")
            assert site.key(job) == job.key
    key = partial(validation_key, "build", "onnx", {})
    assert key(is_merged=True) != key(is_merged=False)


def test_a_worker_with_another_calibration_text_is_refused(
    tiny: Checkpoint, store: FolderStore, mine: CalibrationSettings, tmp_path: Path
) -> None:
    sent = pickle.loads(pickle.dumps(work(tiny, store, mine)))
    job = plan_release(CellPlanner(Inputs(tiny, BRIEF, store, mine)), [LIGHT]).graph.jobs[0]
    assert not sent.is_done(job)
    assert mine.text is not None
    for change in (lambda path: path.write_text("another text", "utf-8"), Path.unlink):
        change(mine.text)
        with pytest.raises(UnfitMachineError, match=r"mine\.txt") as error:
            sent.run(job, Place(tmp_path / "home", set(), silent))
        assert "copy the calibration's texts" in error.value.fix
