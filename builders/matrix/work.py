"""Does jobs on this machine: reads digests, writes blobs and records, and nothing else.

    calibrate  checkpoint ──run_walk──> cache ──> store, actions/calibrate/KEY.json
    build      checkpoint ──build_each──> work/bundles/KEY ──> store, actions/build/KEY.json
    validate   store ──> work/bundles/KEY ──validate──> actions/validate/KEY.json
    measure    store ──> work/bundles/KEY ──a phone──> measurements/BUNDLE.json

A job may die at any point: what it leaves is removed by whoever does it next, and nothing counts before its record is
written, last. A job that is recorded is not done again, whoever has done it. What several processes of this machine do
at once is kept apart by locks (`build_cache.py`); of several machines, each finishes and one records.
"""

from __future__ import annotations

import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from builders.build import build_each
from builders.build_cache import BuildCache
from builders.calibrate import calibrate_requests, run_walk
from builders.checkpoint import Checkpoint
from builders.conversion import BuildRequest
from builders.matrix.calibrations import WalksInStore
from builders.matrix.cell_plan import Inputs
from builders.matrix.graph import Job, Kind
from builders.matrix.keys import (
    build_key,
    bundle_tools,
    installed_tools,
    measurement_key,
    validation_key,
    walk_tools,
)
from builders.matrix.measuring import DEVICE_LABELS, attached_device, measure_bundle
from builders.matrix.planning import MACOS
from builders.matrix.rates import build_amount, validation_amount
from builders.matrix.records import (
    CheckpointFacts,
    Effort,
    built_bundle,
    record_build,
    record_checkpoint,
    record_evidence,
    recorded_evidence,
    recorded_walk,
)
from builders.quantization.calibration.text import WINDOW
from builders.validation.amounts import planned_validation
from builders.validation.validate import check_before_building, validate
from registry.bundle.folder import Bundle
from registry.bundle.manifest import Manifest
from registry.store.measurements import add_measurements
from registry.store.protocol import Store
from targets.calibration import CalibrationSettings
from targets.errors import PhipackError, ReleaseError
from targets.evaluation import EvaluationSettings
from targets.evidence import Evidence
from targets.progress import Progress, Step, notices_once, phase, silent, with_subject

JobResult = bool | PhipackError  # True: done now; False: any machine had recorded it; else what went wrong
BUILDS_AT_ONCE = 3  # each holds a few tensors in memory, and its bundle on the disk until the store has it


@dataclass(frozen=True)
class Site:
    """Where jobs are done: the checkpoint, the store, and this machine's own folder. `on_progress`: steps of jobs."""

    checkpoint: Checkpoint
    settings: EvaluationSettings
    cache: BuildCache
    store: Store
    on_progress: Progress = silent
    calibration: CalibrationSettings = field(default_factory=CalibrationSettings)

    @cached_property
    def inputs(self) -> Inputs:
        """What the jobs are made from."""
        return Inputs(self.checkpoint, self.settings, self.store, self.calibration)

    @cached_property
    def walks(self) -> WalksInStore:
        """What calibrations have measured, shared through the store."""
        return WalksInStore(self.inputs)

    def record_checkpoint(self) -> None:
        """Record what is needed to register bundles of the checkpoint on machines without its files."""
        checkpoint = self.checkpoint
        facts = CheckpointFacts(checkpoint.architecture, checkpoint.digest, checkpoint.merged_from)
        record_checkpoint(self.store, facts)

    def build_key(self, job: Job) -> str:
        """Return the key of the build of a job's bundle, as this machine would do it."""
        learned = self.inputs.calibration_key(job.calibration)
        return build_key(self.checkpoint.digest, job.whole_recipe, job.context_length, learned)

    def key(self, job: Job) -> str:
        """Return a job's key, as this machine would do it."""
        if job.kind == "calibrate":
            return self.inputs.walk_key(job.walk)
        build = self.build_key(job)
        if job.kind == "build":
            return build
        if job.kind == "measure":
            return measurement_key(build, job.target)
        own = MACOS in job.needs.labels
        merged, settings = self.checkpoint.merged_from is not None, self.inputs.evaluation
        return validation_key(build, job.whole_recipe.format, settings, is_merged=merged, on_own_runtime=own)


def missing_labels(job: Job) -> list[str]:
    """Return what a job needs that this machine is not: not a Mac, or no such device is attached."""
    there = {MACOS} if platform.system() == "Darwin" else set()
    if job.needs.labels & DEVICE_LABELS and attached_device(job) is not None:
        there |= DEVICE_LABELS
    return sorted(job.needs.labels - there)


def run_job(job: Job, site: Site) -> bool:
    """Do one job, and return whether it had to be done: False where any machine had recorded it.

    Raises:
        ReleaseError: this machine can't do it, has other versions of the tools, or the job before is not done.
        PhipackError: what the build or the validation raises.
    """
    ((_, result),) = run_jobs([job], site)
    if isinstance(result, PhipackError):
        raise result
    return result


def run_jobs(jobs: Sequence[Job], site: Site) -> Iterator[tuple[Job, JobResult]]:
    """Do jobs, which come in an order in which each is after those that it needs; yield each with its result.

    Calibrations are done first, then builds, a few at a time from one read of the checkpoint. What would be refused of
    every bundle, such as a checkpoint that is misread, is refused before. A job is not tried where one before it has
    failed.

    Raises `StoreError` where nothing can be written there.
    """
    site.store.check_writable()
    site.record_checkpoint()
    results: dict[str, JobResult] = {}
    for job in jobs:
        try:
            _require_same_inputs(job, site)
            _check_first(job, site)
        except PhipackError as error:
            results[job.name] = error
    for job in jobs:
        if job.kind == "calibrate" and job.name not in results:
            results[job.name] = _result(job, site, results)
    builds = [job for job in jobs if job.kind == "build" and job.name not in results]
    results |= {job.name: problem for job in builds if (problem := _not_tried(job, results)) is not None}
    results |= run_builds([job for job in builds if job.name not in results], site)
    for job in jobs:
        if job.name not in results:
            results[job.name] = _result(job, site, results)
        yield job, results[job.name]


def _check_first(job: Job, site: Site) -> None:
    """Refuse what would be refused of every bundle that a calibration or a build is for, if it was not done before."""
    if job.kind == "build" and built_bundle(site.store, job.key) is None:
        check_context(site, job.context_length, job.name)
    if job.kind == "calibrate" and recorded_walk(site.store, job.key) is None:
        check_context(site, min(WINDOW, site.checkpoint.architecture.context_length), job.name)


def _result(job: Job, site: Site, results: Mapping[str, JobResult]) -> JobResult:
    """Do a job that is no build."""
    if (problem := _not_tried(job, results)) is not None:
        return problem
    try:
        return _RUN[job.kind](job, site)
    except PhipackError as error:
        return error


def _not_tried(job: Job, results: Mapping[str, JobResult]) -> ReleaseError | None:
    """Return why a job is not tried: one before it has failed. None where none has."""
    for before in job.after:
        if isinstance(results.get(before), PhipackError):
            return ReleaseError(f"{job.name} was not tried: {before} failed", fix=f"fix what {before} reports first")
    return None


def check_context(site: Site, context_length: int, subject: str) -> None:
    """Refuse what every validation of bundles of this context would refuse. Once for a checkpoint on a machine.

    Raises:
        MeasurementError: phipack reads the checkpoint differently from transformers, or the text is too short.
    """
    with site.cache.checking(site.on_progress):
        check_before_building(
            site.checkpoint,
            site.settings,
            context_length,
            cache=site.cache.reference_folder,
            on_progress=with_subject(site.on_progress, subject),
        )


def run_builds(jobs: Sequence[Job], site: Site, subjects: Mapping[str, str] | None = None) -> dict[str, JobResult]:
    """Build what no machine has recorded, and return each job's result by its name.

    `subjects`: what the progress of a job is about, by the job's name; by default that name.
    """
    results: dict[str, JobResult] = dict.fromkeys((job.name for job in jobs), False)
    # A folder is still there where a process died between the record and the removal.
    missing = [
        job for job in jobs if built_bundle(site.store, job.key) is None or site.cache.bundle_folder(job.key).exists()
    ]
    for start in range(0, len(missing), BUILDS_AT_ONCE):
        some = missing[start : start + BUILDS_AT_ONCE]
        with site.cache.building([job.key for job in some], site.on_progress):
            for job in some:
                shutil.rmtree(site.cache.bundle_folder(job.key), ignore_errors=True)
            some = [job for job in some if built_bundle(site.store, job.key) is None]  # not built meanwhile
            if some:
                results |= _build_together(some, site, subjects or {})
    return results


def _build_together(jobs: Sequence[Job], site: Site, subjects: Mapping[str, str]) -> dict[str, JobResult]:
    by_folder = {site.cache.bundle_folder(job.key): job for job in jobs}
    on_progress = notices_once(site.on_progress)  # what a checkpoint's files say, each build would
    requests = {
        folder: BuildRequest.from_checkpoint(
            site.checkpoint,
            job.whole_recipe,
            job.context_length,
            with_subject(on_progress, subjects.get(job.name, job.name)),
        )
        for folder, job in by_folder.items()
    }
    levels = {folder: job.calibration for folder, job in by_folder.items()}
    requests, problems = calibrate_requests(requests, levels, site.calibration, site.cache, site.walks)
    started = time.monotonic()

    def store(folder: Path, bundle: Bundle) -> None:
        job = by_folder[folder]
        amount = build_amount(site.checkpoint.architecture, job.whole_recipe, job.calibration)
        on_progress = requests[folder].on_progress
        on_progress(Step("store", 0, 1))
        effort = Effort((time.monotonic() - started) / len(jobs), amount)  # they share the machine, and the reading
        _require_unchanged(job, site)
        site.store.add_bundle(bundle)
        record_build(site.store, job.key, bundle.manifest, effort)
        shutil.rmtree(folder, ignore_errors=True)
        on_progress(Step("store", 1, 1))

    try:
        if requests:
            problems |= build_each(requests, replace=True, done=store)
    finally:
        for folder in by_folder:
            shutil.rmtree(folder, ignore_errors=True)
    return {job.name: problems.get(folder, True) for folder, job in by_folder.items()}


def _calibrate(job: Job, site: Site) -> bool:
    if recorded_walk(site.store, job.key) is not None:
        return False
    on_progress = with_subject(site.on_progress, job.name)
    run_walk(site.checkpoint, job.walk, site.calibration, site.cache, on_progress, site.walks)
    return job.walk.label in site.walks.added


def _validate_bundle(job: Job, site: Site) -> bool:
    return validated(job, site, job.name)[2]


def validated(job: Job, site: Site, subject: str) -> tuple[Manifest, Evidence, bool]:
    """Return a bundle and its figures, without gates; True where they had to be measured.

    Args:
        job: the validation.
        site: where it is done.
        subject: what its progress is about.

    Raises:
        ReleaseError: this machine can't measure what is asked for, or the store does not have the bundle; or a text
            was changed meanwhile.
        MeasurementError: as `validate` raises.
    """
    manifest = built_bundle(site.store, site.build_key(job))
    if manifest is None:
        raise ReleaseError(
            f"{job.name}: the store does not have its bundle",
            fix="run the same command again" if not job.after else f"do {' and '.join(job.after)} first, or again",
        )
    if (recorded := recorded_evidence(site.store, job.key, manifest)) is not None:
        return manifest, recorded, False
    require_labels(job)
    on_progress = with_subject(site.on_progress, subject)
    with site.cache.validating(on_progress):
        if (recorded := recorded_evidence(site.store, job.key, manifest)) is not None:  # by who was waited for
            return manifest, recorded, False
        started = time.monotonic()
        with _materialised(manifest.digest, site, on_progress) as bundle:
            cache = site.cache.reference_folder
            evidence = validate(bundle, site.checkpoint, site.settings, cache=cache, on_progress=on_progress)
        _require_unchanged(job, site)
        recipe, architecture = job.whole_recipe, site.checkpoint.architecture
        amount = validation_amount(
            planned_validation(
                site.settings, architecture, recipe, job.context_length, on_mac=platform.system() == "Darwin"
            )
        )
        effort = Effort(time.monotonic() - started, amount)
        return manifest, record_evidence(site.store, job.key, manifest, evidence, effort), True


@contextmanager
def _materialised(digest: str, site: Site, on_progress: Progress) -> Iterator[Bundle]:
    """Put a bundle of the store into a folder for a while: what is measured is what the store holds."""
    folder = site.cache.bundle_folder(digest.removeprefix("sha256:")[:32])
    shutil.rmtree(folder, ignore_errors=True)
    try:
        with phase(on_progress, "store"):
            bundle = site.store.materialise(digest, folder)
        yield bundle
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def require_labels(job: Job) -> None:
    """Raise `ReleaseError` where the job needs another kind of machine."""
    if missing := missing_labels(job):
        raise _needs_machine(job, missing)


def _needs_machine(job: Job, missing: Sequence[str]) -> ReleaseError:
    device = f": {job.target}, or another device with {job.soc}, attached and ready" if job.target else ""
    return ReleaseError(
        f"{job.name} needs a machine with {', '.join(missing)}{device}",
        fix=f"run it there: phipack release --defer-registration --job {job.name}; then phipack release --finish",
    )


def _require_same_inputs(job: Job, site: Site) -> None:
    """Raise `ReleaseError` where this machine would do another job under the same name."""
    if site.key(job) != job.key:
        is_merged = site.checkpoint.merged_from is not None
        tools = (
            walk_tools(job.walk)
            if job.kind == "calibrate"
            else bundle_tools(job.whole_recipe.format, is_merged=is_merged)
        )
        raise ReleaseError(
            f"{job.name} was planned with other versions of the tools, another checkpoint or other settings than here: "
            f"{installed_tools(tools)}; checkpoint {site.checkpoint.digest}",
            fix="install the same versions on all machines (pip install -c constraints.txt), then plan again",
        )


def _require_unchanged(job: Job, site: Site) -> None:
    """Raise `ReleaseError` where a text that the job has read is no longer the one that its key knows."""
    if replace(site).key(job) != job.key:  # a site that has read nothing yet
        raise ReleaseError(
            f"{job.name}: what it reads, such as [evaluation] text or [calibration] text, was changed meanwhile",
            fix="run the same command again: it plans with what is there now",
        )


def _measure_on_device(job: Job, site: Site) -> bool:
    manifest = built_bundle(site.store, site.build_key(job))
    if manifest is None:
        raise ReleaseError(f"{job.name}: the store does not have its bundle", fix=f"do {job.after[0]} first, or again")
    device = attached_device(job)
    if device is None:
        raise _needs_machine(job, sorted(job.needs.labels))
    on_progress = with_subject(site.on_progress, job.name)
    with _materialised(manifest.digest, site, on_progress) as bundle:
        measurement = measure_bundle(bundle, device, on_progress)
    return add_measurements(site.store, manifest.digest, [measurement]) > 0


_RUN: Mapping[Kind, Callable[[Job, Site], bool]] = {
    "calibrate": _calibrate,
    "validate": _validate_bundle,
    "measure": _measure_on_device,
}
