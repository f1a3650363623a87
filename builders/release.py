"""A release: every cell of a project built, validated, gated and registered.

    cell ──fit──> context ──build──> store ──validate──> evidence ──gates──> register
                              │                  │
                     done already for the same inputs?

What is to be built is built first, a few bundles at a time from one read of the checkpoint; then cell by cell. A cell
that fails is reported and the next one goes on; what was done for it stays recorded, so that the next run of the
release starts where this one failed. Nothing is registered for a cell that fails: its version stays free.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

from pydantic import ValidationError

from builders.build import build_each
from builders.build_cache import Workshop, build_key, evidence_key
from builders.checkpoint import Checkpoint
from builders.conversion import BuildRequest, Progress, silent
from builders.validation.text import read_text
from builders.validation.validate import validate
from registry.bundle.folder import Bundle
from registry.bundle.manifest import Manifest
from registry.files.digests import digest_of_bytes
from registry.files.staging import disk_errors
from registry.store.protocol import Store
from targets.errors import GateError, PhipackError, ReleaseError
from targets.evaluation import Settings
from targets.evidence import Evidence
from targets.fit import require_fit
from targets.gates import Gate, judge
from targets.prediction import predicted_figures
from targets.project import Cell

BUILDS_AT_ONCE = 3  # each holds a few tensors in memory, and its bundle on the disk until the store has it


@dataclass(frozen=True)
class CellOutcome:
    """What became of a cell. `problem` is None where it passed and was registered."""

    cell: Cell
    manifest: Manifest | None = None
    evidence: Evidence | None = None
    built_anew: bool = False
    measured_anew: bool = False
    problem: PhipackError | None = None


# Puts a cell that passed into the registry.
Register = Callable[[Cell, Manifest, Evidence], object]


@dataclass(frozen=True)
class Release:
    """The parts that all cells of a release share."""

    checkpoint: Checkpoint
    settings: Settings
    workshop: Workshop
    store: Store
    register: Register
    progress: Progress = silent

    def run(self, cells: tuple[Cell, ...]) -> Iterator[CellOutcome]:
        """Build what is missing, then do the cells one by one, giving each outcome as it comes.

        An interrupt ends it; what was done is kept.
        """
        self.store.check_writable()
        built = self._build_missing(cells)
        for cell in cells:
            try:
                yield self._one(cell, built)
            except PhipackError as error:
                yield CellOutcome(cell, problem=error)

    def _one(self, cell: Cell, built: Mapping[str, PhipackError | None]) -> CellOutcome:
        architecture = self.checkpoint.architecture
        context_length = self._context_length(cell)
        key = self._key(cell, context_length)
        if problem := built.get(key):
            raise problem
        manifest, built_anew = self._stored(key), key in built
        if manifest is None:
            raise ReleaseError(f"{cell.name}: the store has lost its bundle since it was built", fix="release again")
        measured, measured_anew = self._measured(manifest)
        predicted = predicted_figures(architecture, cell.recipe, cell.target, context_length)
        evidence = judged(
            measured.model_copy(update={"target": cell.target.name, "figures": measured.figures | predicted}),
            cell.gates,
        )
        outcome = CellOutcome(cell, manifest, evidence, built_anew, measured_anew)
        if not evidence.passed:
            return replace(outcome, problem=refusal(cell.name, evidence))
        try:
            self.register(cell, manifest, evidence)
        except PhipackError as error:
            return replace(outcome, problem=error)
        return outcome

    def _context_length(self, cell: Cell) -> int:
        return require_fit(self.checkpoint.architecture, cell.recipe, cell.target, cell.context_length)

    def _key(self, cell: Cell, context_length: int) -> str:
        return build_key(self.checkpoint.digest, cell.recipe.name, cell.recipe.format, context_length)

    def _stored(self, key: str) -> Manifest | None:
        """Give the manifest of a build that was done before, if the store has its bundle."""
        record = self.workshop.read_record("built", key)
        if record is None or not self.store.has_bundle(record["digest"]):
            return None
        return self.store.manifest(record["digest"])

    def _build_missing(self, cells: tuple[Cell, ...]) -> dict[str, PhipackError | None]:
        """Build what no earlier run has built: by key, None or what went wrong."""
        requests: dict[str, BuildRequest] = {}
        for cell in cells:
            try:
                context_length = self._context_length(cell)
            except PhipackError:
                continue  # told when its turn comes
            key = self._key(cell, context_length)
            if key in requests:
                continue
            if self._stored(key) is None:
                requests[key] = BuildRequest.from_checkpoint(
                    self.checkpoint, cell.recipe, context_length, self.progress
                )
            else:  # its folder is still there where a release died between the record and the removal
                shutil.rmtree(self.workshop.bundle_folder(key), ignore_errors=True)
        built: dict[str, PhipackError | None] = {}
        for start in range(0, len(requests), BUILDS_AT_ONCE):
            built |= self._build_together(dict(list(requests.items())[start : start + BUILDS_AT_ONCE]))
        return built

    def _build_together(self, requests: dict[str, BuildRequest]) -> dict[str, PhipackError | None]:
        folders = {self.workshop.bundle_folder(key): key for key in requests}

        def store(folder: Path, bundle: Bundle) -> None:
            self.progress("storing the bundle", 0, 1)
            digest = self.store.add_bundle(bundle)
            recipe = bundle.manifest.recipe.name
            self.workshop.write_record("built", folders[folder], {"digest": digest, "recipe": recipe})
            shutil.rmtree(folder, ignore_errors=True)

        try:
            problems = build_each({folder: requests[key] for folder, key in folders.items()}, replace=True, done=store)
        finally:
            for folder in folders:
                shutil.rmtree(folder, ignore_errors=True)
        return {key: problems.get(folder) for folder, key in folders.items()}

    def _measured(self, manifest: Manifest) -> tuple[Evidence, bool]:
        """Give figures of a bundle that the store has, without gates; True where they had to be taken."""
        settings = asdict(self.settings) | {"text": self._text_digest}
        key = evidence_key(manifest.digest, manifest.recipe.format, settings)
        record = self.workshop.read_record("evidence", key)
        if record is not None:
            try:
                return Evidence.model_validate(record), False
            except ValidationError:
                pass  # of another version, or damaged: taken again
        with self._materialised(manifest.digest) as bundle:
            evidence = validate(
                bundle, self.checkpoint, self.settings, cache=self.workshop.cache, progress=self.progress
            )
        self.workshop.write_record("evidence", key, evidence.model_dump(mode="json", by_alias=True))
        return evidence, True

    @contextmanager
    def _materialised(self, digest: str) -> Iterator[Bundle]:
        """Put a bundle of the store in a folder for a while: what is measured is what the store gives out."""
        folder = self.workshop.bundle_folder(digest.removeprefix("sha256:")[:32])
        with disk_errors(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        try:
            yield self.store.materialise(digest, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @cached_property
    def _text_digest(self) -> str:
        return digest_of_bytes(read_text(self.settings.text).encode())


def judged(evidence: Evidence, gates: dict[str, dict[str, Gate]]) -> Evidence:
    """Hold evidence against gates (by who asks for them) and give it with the results."""
    values = {name: figure.value for name, figure in evidence.figures.items()}
    results = [result for owner, asked in gates.items() for result in judge(values, asked, asked_by=owner)]
    return evidence.model_copy(update={"gates": results})


def refusal(name: str, evidence: Evidence) -> GateError:
    """Say why a cell or bundle with such evidence is not taken."""
    fix = None if evidence.failed_gates else "ask for one in the project file: [gates] kl_mean = { at_most = 0.05 }"
    return GateError(f"{name} does not pass: {'; '.join(evidence.shortcomings)}", fix=fix)
