"""A release: every cell of a project built, validated, gated and registered.

    cell ──fit──> context ──build──> store ──validate──> evidence ──gates──> register
                              │                  │
                     done already for the same inputs? (build_cache.py)

What can be known beforehand is: sizes, predicted speed and memory, what is cached, whether transformers reads the
checkpoint alike. `Release.plan` reports it, and a cell that fails by it is not built. What is missing is built next, a
few bundles at a time from one read of the checkpoint; then the cells are validated one by one. A cell that fails is
reported and the next one goes on; what was done for it stays recorded, so the next run starts where this one failed.
Nothing is registered for a cell that fails: its version stays free.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

from pydantic import ValidationError

from builders.build import build_each
from builders.build_cache import BuildCache, build_key, evidence_key
from builders.checkpoint import Checkpoint
from builders.conversion import BuildRequest
from builders.sizes import bundle_sizes
from builders.validation.text import read_text
from builders.validation.validate import check_before_building, validate
from registry.bundle.folder import Bundle
from registry.bundle.manifest import Manifest
from registry.files.digests import digest_of_bytes
from registry.files.staging import free_bytes
from registry.store.measurements import read_measurements
from registry.store.protocol import Store
from targets.device_evidence import device_figures
from targets.errors import BuildError, Failure, GateError, PhipackError, ReleaseError
from targets.evaluation import EvaluationSettings
from targets.evidence import ACCURACY_FIGURES, FIGURES, NO_ACCURACY_GATE, Evidence, Figure, judge_figures
from targets.fit import require_fit
from targets.gates import Gate, GateResult
from targets.prediction import predicted_figures
from targets.progress import Progress, Step, silent, with_subject
from targets.project import Cell

BUILDS_AT_ONCE = 3  # each holds a few tensors in memory, and its bundle on the disk until the store has it


@dataclass(frozen=True)
class CellOutcome:
    """What became of a cell. `problem` is None where it passed and was registered.

    `built`, `measured`: True where this run did so, False where an earlier run had. `plan`: of a cell that was refused
    beforehand, neither built nor measured in this run.
    """

    cell: str
    recipe: str
    target: str
    manifest: Manifest | None = None
    evidence: Evidence | None = None
    built: bool = False
    measured: bool = False
    problem: PhipackError | None = None
    plan: CellPlan | None = None

    @property
    def failures(self) -> tuple[Failure, ...]:
        """Every reason why the cell was not registered: each gate that failed, or the one problem."""
        return () if self.problem is None else _failures(self.cell, self.problem)


@dataclass(frozen=True)
class CellPlan:
    """What a release would do for a cell, known without building it.

    `bundle_bytes`: all files but manifest.json, exact. `figures`: those known by now: size, speed and memory as
    predicted for the target, and what was measured if the evidence is cached. `gates`: results of the gates on these.
    `open_gates`: figures that other gates bound, which validation will measure. `problem`: why the cell can't be built,
    or can't pass; then it will not be built.
    """

    cell: str
    recipe: str
    target: str
    context_length: int | None = None
    bundle_bytes: int | None = None
    figures: Mapping[str, Figure] | None = None
    gates: tuple[GateResult, ...] = ()
    open_gates: tuple[str, ...] = ()
    is_built: bool = False
    is_measured: bool = False
    problem: PhipackError | None = None

    @property
    def failures(self) -> tuple[Failure, ...]:
        """Every reason known by now why the cell would fail."""
        if self.problem is not None:
            return _failures(self.cell, self.problem)
        return tuple(Failure(self.cell, str(gate)) for gate in self.gates if not gate.passed)


# Puts a cell that passed into the registry.
Register = Callable[[Cell, Manifest, Evidence], object]


@dataclass(frozen=True)
class Release:
    """The parts that all cells of a release share. `on_progress` receives steps whose subject is the cell."""

    checkpoint: Checkpoint
    settings: EvaluationSettings
    cache: BuildCache
    store: Store
    register: Register
    on_progress: Progress = silent

    def run(self, cells: tuple[Cell, ...]) -> Iterator[CellOutcome]:
        """Build what is missing, then validate and register the cells one by one, yielding each outcome as it comes.

        A cell that is known to fail is not built; its outcome comes first. An interrupt ends it; what was done is kept.
        """
        self.store.check_writable()
        refused = self._refused_beforehand(cells)
        yield from refused.values()
        cells = tuple(cell for cell in cells if cell.name not in refused)
        built = self._build_missing(cells)
        for cell in cells:
            try:
                yield self._finish(cell, built)
            except PhipackError as error:
                yield CellOutcome(cell.name, cell.recipe.name, cell.target.name, problem=error)

    def plan(self, cells: tuple[Cell, ...]) -> tuple[CellPlan, ...]:
        """Return what `run` would do for each cell. No tensor is read, and nothing is written.

        The checkpoint is hashed, which reads its files once, only where the cache holds builds that could be its.

        Raises:
            StoreError: the store can't be asked which bundles it has.
            MeasurementError: the evaluation's text can't be read.
        """
        read_text(self.settings.text)
        sizes: dict[tuple[str, int], int] = {}
        return tuple(self._plan_cell(cell, sizes) for cell in cells)

    def _plan_cell(self, cell: Cell, sizes: dict[tuple[str, int], int]) -> CellPlan:
        """Plan one cell. `sizes`: of bundles by recipe and context, which cells share."""
        plan = CellPlan(cell.name, cell.recipe.name, cell.target.name)
        try:
            context_length = self._context_length(cell)
        except PhipackError as error:
            return replace(plan, problem=error)
        manifest = self._stored(self._key(cell, context_length)) if self.cache.has_records("built") else None
        evidence = None if manifest is None else self._recorded_evidence(self._evidence_key(manifest))
        if (cell.recipe.name, context_length) not in sizes:
            try:
                sizes[cell.recipe.name, context_length] = self._bundle_bytes(cell, context_length, manifest)
            except PhipackError as error:
                return replace(plan, problem=error)
        bundle_bytes = sizes[cell.recipe.name, context_length]
        on = "all files of the bundle but manifest.json"
        size = Figure(value=bundle_bytes, unit=FIGURES["artifact_bytes"][0], kind="predicted", on=on)
        figures = {"artifact_bytes": size} | ({} if evidence is None else evidence.figures)
        figures |= self._target_figures(cell, context_length, manifest)
        results = _results(figures, cell.gates)
        problem = None
        if evidence is None:
            problem = self._certain_problem(cell, bundle_bytes, results, is_built=manifest is not None)
        return replace(
            plan,
            context_length=context_length,
            bundle_bytes=bundle_bytes,
            figures=figures,
            gates=tuple(result for result in results if result.value is not None),
            open_gates=tuple(result.figure for result in results if result.value is None),
            is_built=manifest is not None,
            is_measured=evidence is not None,
            problem=problem,
        )

    def _bundle_bytes(self, cell: Cell, context_length: int, manifest: Manifest | None) -> int:
        """Return the size of a bundle's files: as its manifest lists them, or as a build would write them."""
        if manifest is not None:
            return sum(file.bytes for file in manifest.files)
        return sum(bundle_sizes(BuildRequest.from_checkpoint(self.checkpoint, cell.recipe, context_length)).values())

    def _certain_problem(
        self, cell: Cell, bundle_bytes: int, results: Sequence[GateResult], *, is_built: bool
    ) -> PhipackError | None:
        """Return why a cell can't pass, whatever will be measured; None where it may.

        A bundle is larger than planned by its manifest, so that a lower bound on its size is left open.
        """
        failed = [gate for gate in results if gate.value is not None and not gate.passed]
        certain = [str(gate) for gate in failed if (gate.figure, gate.bound[:2]) != ("artifact_bytes", ">=")]
        if not any(gate.figure in ACCURACY_FIGURES for gate in results):
            certain.append(NO_ACCURACY_GATE)
        if certain:
            return _refusal(cell.name, certain)
        place = self.cache.work_folder
        free = free_bytes(place)
        if not is_built and bundle_bytes > free:
            return BuildError(
                f"the bundle has {bundle_bytes / 1e9:.2f} GB, and {place} has {free / 1e9:.2f} GB left",
                fix="free space, or move the project to a folder on another disk",
            )
        return None

    def _refused_beforehand(self, cells: tuple[Cell, ...]) -> dict[str, CellOutcome]:
        """Return the outcome of each cell that would be built or measured only to fail then, by the cell's name."""
        plans = {plan.cell: plan for plan in self.plan(cells)}
        problems = {name: plan.problem for name, plan in plans.items() if plan.problem is not None}
        to_measure: dict[int, list[str]] = {}  # names of cells by their context's length
        for name, plan in plans.items():
            if plan.context_length is not None and not plan.is_measured and name not in problems:
                to_measure.setdefault(plan.context_length, []).append(name)
        for context_length, names in to_measure.items():
            try:
                with self.cache.checking(self.on_progress):
                    check_before_building(
                        self.checkpoint,
                        self.settings,
                        context_length,
                        cache=self.cache.reference_folder,
                        on_progress=with_subject(self.on_progress, names[0]),
                    )
            except PhipackError as error:
                problems |= dict.fromkeys(names, error)
        return {
            name: CellOutcome(name, plans[name].recipe, plans[name].target, problem=problem, plan=plans[name])
            for name, problem in problems.items()
        }

    def _finish(self, cell: Cell, built: Mapping[str, PhipackError | None]) -> CellOutcome:
        """Validate, judge and register a cell whose bundle is built."""
        context_length = self._context_length(cell)
        key = self._key(cell, context_length)
        if problem := built.get(key):
            raise problem
        manifest = self._stored(key)
        if manifest is None:
            raise ReleaseError(
                f"{cell.name}: the store has lost its bundle since it was built", fix="run the same command again"
            )
        evidence, measured = self._measured(manifest, with_subject(self.on_progress, cell.name))
        on_target = self._target_figures(cell, context_length, manifest)
        evidence = judged(
            evidence.model_copy(update={"target": cell.target.name, "figures": evidence.figures | on_target}),
            cell.gates,
        )
        outcome = CellOutcome(
            cell.name, cell.recipe.name, cell.target.name, manifest, evidence, built=key in built, measured=measured
        )
        if not evidence.passed:
            return replace(outcome, problem=refusal(cell.name, evidence))
        try:
            self.register(cell, manifest, evidence)
        except PhipackError as error:
            return replace(outcome, problem=error)
        return outcome

    def _target_figures(self, cell: Cell, context_length: int, manifest: Manifest | None) -> dict[str, Figure]:
        """Return what is predicted for the target, and what was measured of the bundle on such devices."""
        measured = () if manifest is None else read_measurements(self.store, manifest.digest)
        predicted = predicted_figures(self.checkpoint.architecture, cell.recipe, cell.target, context_length)
        return predicted | device_figures(measured, cell.target)

    def _context_length(self, cell: Cell) -> int:
        return require_fit(self.checkpoint.architecture, cell.recipe, cell.target, cell.context_length)

    def _key(self, cell: Cell, context_length: int) -> str:
        return build_key(self.checkpoint.digest, cell.recipe.name, cell.recipe.format, context_length)

    def _evidence_key(self, manifest: Manifest) -> str:
        return evidence_key(manifest.digest, manifest.recipe.format, self.evaluation)

    def _stored(self, key: str) -> Manifest | None:
        """Return the manifest of a build that was done before, if the store has its bundle."""
        record = self.cache.read_record("built", key)
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
                continue  # `_finish` reports it
            key = self._key(cell, context_length)
            if key in requests:
                continue
            # A folder is still there where a release died between the record and the removal.
            if self._stored(key) is None or self.cache.bundle_folder(key).exists():
                on_progress = with_subject(self.on_progress, cell.name)
                requests[key] = BuildRequest.from_checkpoint(self.checkpoint, cell.recipe, context_length, on_progress)
        built: dict[str, PhipackError | None] = {}
        for start in range(0, len(requests), BUILDS_AT_ONCE):
            keys = list(requests)[start : start + BUILDS_AT_ONCE]
            with self.cache.building(keys, self.on_progress):
                for key in keys:
                    shutil.rmtree(self.cache.bundle_folder(key), ignore_errors=True)
                missing = {key: requests[key] for key in keys if self._stored(key) is None}  # not built meanwhile
                if missing:
                    built |= self._build_together(missing)
        return built

    def _build_together(self, requests: dict[str, BuildRequest]) -> dict[str, PhipackError | None]:
        folders = {self.cache.bundle_folder(key): key for key in requests}

        def store(folder: Path, bundle: Bundle) -> None:
            on_progress, recipe = requests[folders[folder]].on_progress, bundle.manifest.recipe.name
            on_progress(Step("store", 0, 1))
            digest = self.store.add_bundle(bundle)
            self.cache.write_record("built", folders[folder], {"digest": digest, "recipe": recipe})
            shutil.rmtree(folder, ignore_errors=True)
            on_progress(Step("store", 1, 1))

        try:
            problems = build_each({folder: requests[key] for folder, key in folders.items()}, replace=True, done=store)
        finally:
            for folder in folders:
                shutil.rmtree(folder, ignore_errors=True)
        return {key: problems.get(folder) for folder, key in folders.items()}

    def _recorded_evidence(self, key: str) -> Evidence | None:
        """Return the figures that were measured before; None too where their record is damaged or of another shape."""
        record = self.cache.read_record("evidence", key)
        try:
            return None if record is None else Evidence.model_validate(record)
        except ValidationError:
            return None

    def _measured(self, manifest: Manifest, on_progress: Progress) -> tuple[Evidence, bool]:
        """Return figures of a bundle that the store has, without gates; True where they had to be measured."""
        key = self._evidence_key(manifest)
        if (recorded := self._recorded_evidence(key)) is not None:
            return recorded, False
        with self.cache.validating(on_progress):
            if (recorded := self._recorded_evidence(key)) is not None:  # by the process that was waited for
                return recorded, False
            with self._materialised(manifest.digest) as bundle:
                cache = self.cache.reference_folder
                evidence = validate(bundle, self.checkpoint, self.settings, cache=cache, on_progress=on_progress)
            self.cache.write_record("evidence", key, json.loads(evidence.to_json()))
        return evidence, True

    @contextmanager
    def _materialised(self, digest: str) -> Iterator[Bundle]:
        """Put a bundle of the store into a folder for a while: what is measured is what the store holds."""
        folder = self.cache.bundle_folder(digest.removeprefix("sha256:")[:32])
        shutil.rmtree(folder, ignore_errors=True)
        try:
            yield self.store.materialise(digest, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @cached_property
    def evaluation(self) -> dict[str, object]:
        """The settings of the evaluation, with the text's digest in place of its path."""
        return asdict(self.settings) | {"text": digest_of_bytes(read_text(self.settings.text).encode())}


def _failures(cell: str, problem: PhipackError) -> tuple[Failure, ...]:
    gates = problem.failures if isinstance(problem, GateError) else ()
    return tuple(gates) or (Failure(cell, problem.problem),)


def judged(evidence: Evidence, gates: dict[str, dict[str, Gate]]) -> Evidence:
    """Return the evidence with the results of `gates`, which are grouped by their source: cell, project, target."""
    return evidence.model_copy(update={"gates": _results(evidence.figures, gates)})


def refusal(name: str, evidence: Evidence) -> GateError:
    """Return the error that says why a cell or bundle with such evidence does not pass."""
    return _refusal(name, evidence.shortcomings)


def _refusal(name: str, shortcomings: list[str]) -> GateError:
    fix = (
        "choose a recipe with more bits or a smaller --context, or change the bound where it is wrong; "
        "phipack validate shows all figures"
        if shortcomings != [NO_ACCURACY_GATE]
        else "ask for one in the project file: [gates] kl_mean = { at_most = 0.05 }"
    )
    failures = [Failure(name, shortcoming) for shortcoming in shortcomings]
    return GateError(f"{name} does not pass: {'; '.join(shortcomings)}", failures=failures, fix=fix)


def _results(figures: Mapping[str, Figure], gates: Mapping[str, Mapping[str, Gate]]) -> list[GateResult]:
    return [result for owner, asked in gates.items() for result in judge_figures(figures, asked, asked_by=owner)]
