"""What a worker must know to do a release's jobs, and how it finds the same inputs there.

Each worker reaches the store by its own credentials, and has the checkpoint at the coordinator's path (a shared folder,
or a copy). All are compared before a job starts: the checkpoint, and the texts of the evaluation and the calibration,
by their digests.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

from builders.build_cache import BuildCache
from builders.checkpoint import Checkpoint, open_checkpoint
from builders.checkpoint.adapter import merge
from builders.checkpoint.tokenizer_files import tokenizer_files
from builders.checkpoint.unchanged import states_of
from builders.matrix.cell_plan import evaluation_of
from builders.matrix.cluster.task import Place, UnfitMachineError
from builders.matrix.graph import Job
from builders.matrix.keys import CalibrationKey, build_key, key_tools, validation_tools, walk_tools
from builders.matrix.records import built_bundle, recorded_evidence, recorded_walk
from builders.matrix.work import Site, run_job
from builders.quantization.calibration.text import read_calibration_text
from registry.files.digests import digest_of_bytes
from registry.store.protocol import Store
from registry.store.uris import open_store
from targets.calibration import CalibrationSettings
from targets.errors import PhipackError
from targets.evaluation import EvaluationSettings


@dataclass(frozen=True)
class ReleaseWork:
    """Implements `Work` for a release.

    Attributes:
        checkpoint, adapter: where they are on every machine.
        checkpoint_digest: of the two merged; what is there must have it.
        settings: of the evaluation; its text is a path on every machine.
        evaluation_digest: of its settings, texts, tasks and prompts.
        store: its URI.
        home: `.phipack` of the project, for workers of this machine; None lets each use a folder of its own.
        calibration: its text, too, is a path on every machine; None where no cell is calibrated.
        calibration_digest: of that text.
    """

    checkpoint: Path
    adapter: Path | None
    checkpoint_digest: str
    settings: EvaluationSettings
    evaluation_digest: str
    store: str
    home: Path | None = None
    calibration: CalibrationSettings | None = None
    calibration_digest: str = ""

    def packages(self, job: Job) -> Mapping[str, str]:
        """Return the versions that are part of the job's key: of a validation, also those of its bundle's build."""
        if job.kind == "calibrate":
            names = walk_tools(job.walk)
        else:
            names = key_tools(job.whole_recipe.format, is_calibrated=job.calibration != "none")
        if job.kind == "validate":
            names += validation_tools(
                job.whole_recipe.format,
                has_tasks=self.settings.tasks is not None,
                is_merged=self.adapter is not None,
            )
        return {name: version(name) for name in names}

    def is_done(self, job: Job) -> bool:
        """Return whether the store has the job's record, and the bundle or files that it names."""
        store = _store(self.store)
        if job.kind == "calibrate":
            return recorded_walk(store, job.key) is not None
        if job.kind == "build":
            return built_bundle(store, job.key) is not None
        learned = None if job.calibration == "none" else CalibrationKey(job.calibration, self.calibration_digest)
        build = build_key(self.checkpoint_digest, job.whole_recipe, job.context_length, learned)
        manifest = built_bundle(store, build)
        return manifest is not None and recorded_evidence(store, job.key, manifest) is not None

    def run(self, job: Job, place: Place) -> None:
        """Do the job here. Raises `UnfitMachineError` where this machine has other inputs; as `run_job` raises."""
        checkpoint = self._checkpoint_here()
        place.checkpoints.add(self.checkpoint_digest)
        self._check_texts()
        cache = BuildCache(place.folder if self.home is None else self.home)
        calibration = self.calibration or CalibrationSettings()
        site = Site(checkpoint, self.settings, cache, _store(self.store), place.on_progress, calibration)
        run_job(job, site)

    def _checkpoint_here(self) -> Checkpoint:
        fix = f"copy the checkpoint to {self.checkpoint} on this machine, or mount the folder that it is in there"
        try:
            checkpoint = _opened(self.checkpoint, self.adapter, _state_of(self.checkpoint, self.adapter))
            digest = checkpoint.digest
        except (OSError, PhipackError) as error:
            why = error.problem if isinstance(error, PhipackError) else str(error)
            raise UnfitMachineError(f"the checkpoint can't be read on this machine: {why}", fix=fix) from error
        if digest != self.checkpoint_digest:
            raise UnfitMachineError(
                f"{self.checkpoint} is another checkpoint on this machine: {digest}, not {self.checkpoint_digest}",
                fix=fix,
            )
        return checkpoint

    def _check_texts(self) -> None:
        settings = self.settings
        folders = [str(path) for path in (settings.text, settings.tasks, settings.safety) if path is not None]
        what = ", ".join(folders) or "what the evaluation reads"
        _require_same("evaluation", what, lambda: digest_of_evaluation(settings), self.evaluation_digest)
        if (calibration := self.calibration) is not None:
            there = self.calibration_digest
            what = str(calibration.text or "the calibration's text")
            _require_same("calibration", what, lambda: read_calibration_text(calibration).digest, there)


def _require_same(whose: str, what: str, digest_here: Callable[[], str], digest: str) -> None:
    """Raise `UnfitMachineError` where what is read is missing on this machine, or another one."""
    fix = f"copy the {whose}'s texts to the same paths on this machine: {what}"
    try:
        found = digest_here()
    except PhipackError as error:
        raise UnfitMachineError(f"on this machine: {error.problem}", fix=fix) from error
    if found != digest:
        raise UnfitMachineError(f"{what}: the content is another one on this machine", fix=fix)


def release_work(
    checkpoint: Checkpoint,
    settings: EvaluationSettings,
    store: Store,
    folders: tuple[Path, Path | None],
    home: Path | None,
    calibration: CalibrationSettings | None = None,
) -> ReleaseWork:
    """Return the work of a release. `folders`: of the checkpoint, and of the adapter that is merged into it.

    `calibration`: None where no cell is calibrated. Paths are made absolute: workers have other current folders.
    """
    settings = replace(
        settings,
        text=_absolute(settings.text),
        tasks=_absolute(settings.tasks),
        safety=_absolute(settings.safety),
    )
    calibration = None if calibration is None else replace(calibration, text=_absolute(calibration.text))
    return ReleaseWork(
        checkpoint=folders[0].absolute(),
        adapter=_absolute(folders[1]),
        checkpoint_digest=checkpoint.digest,
        settings=settings,
        evaluation_digest=digest_of_evaluation(settings),
        store=store.uri,
        home=_absolute(home),
        calibration=calibration,
        calibration_digest="" if calibration is None else read_calibration_text(calibration).digest,
    )


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.absolute()


def digest_of_evaluation(settings: EvaluationSettings) -> str:
    """Return the digest of what an evaluation is and reads. Raises `MeasurementError` where it can't be read."""
    return digest_of_bytes(json.dumps(evaluation_of(settings), sort_keys=True, allow_nan=False).encode())


@lru_cache(maxsize=8)
def _store(uri: str) -> Store:
    return open_store(uri)


@lru_cache(maxsize=2)
def _opened(path: Path, adapter: Path | None, _state: tuple[object, ...]) -> Checkpoint:
    """Open a checkpoint once in a process, as long as its files stay as they are: its digest reads every byte."""
    opened = open_checkpoint(path)
    return opened if adapter is None else merge(opened, adapter)


def _state_of(*folders: Path | None) -> tuple[object, ...]:
    """Return the states of the files in folders, and of those of the tokenizer below."""
    there = [folder for folder in folders if folder is not None]
    files = [file for folder in there for file in (*folder.iterdir(), *tokenizer_files(folder).values())]
    return tuple(states_of(sorted({*files})).items())
