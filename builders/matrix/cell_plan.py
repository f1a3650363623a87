"""What a release would do for each cell, known without building it: sizes, predictions, what is done, what fails."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path

from builders.checkpoint import Checkpoint
from builders.matrix.keys import CalibrationKey, build_key, validation_key, walk_key
from builders.matrix.planned_size import planned_bytes
from builders.matrix.records import CheckpointFacts, built_bundle, recorded_evidence, recorded_walk
from builders.quantization.calibration.overlap import require_unseen
from builders.quantization.calibration.text import CalibrationText, read_calibration_text
from builders.quantization.calibration.walks import CalibrationWalk
from builders.validation.sampled_texts import plain_texts
from builders.validation.tasks.task_files import folder_digest, prompt_texts
from builders.validation.text import BUILT_IN_NAME, read_text
from registry.bundle.manifest import Manifest
from registry.bundle.recipe import recipe_of
from registry.files.digests import digest_of_bytes
from registry.files.staging import free_bytes
from registry.store.actions import has_records
from registry.store.measurements import read_measurements
from registry.store.protocol import Store
from targets.budget import Budget
from targets.budget_fit import stored_on
from targets.calibration import Calibration, CalibrationSettings
from targets.device_evidence import device_figures
from targets.errors import BuildError, Failure, GateError, PhipackError
from targets.evaluation import EvaluationSettings
from targets.evidence import (
    FIGURES,
    NO_ACCURACY_GATE,
    OWN_RUNTIME_FIGURES,
    Evidence,
    Figure,
    bounds_accuracy,
    judge_figures,
)
from targets.gates import CHANGE, DEVICE_PREFIX, Gate, GateResult
from targets.measurement import Measurement
from targets.never_taken import never_taken
from targets.prediction import predicted_figures
from targets.project import Cell
from targets.recipes import Recipe

MEMORY = "predicted_memory_bytes"


@dataclass(frozen=True)
class CellPlan:
    """What a release would do for a cell, known without building it.

    `budget`: in bytes or bits; as it was asked for where the cell can't be planned. `kv_cache`: the type of keys and
    values, where it is not the format's own. `candidates`: the types that may be
    chosen for it, all of the format's where empty. `bundle_bytes`: all files but
    manifest.json; exact, or of the weights alone where the checkpoint's files are not here; of a budget that is not
    spent yet, what it allows. `figures`: those known by now: size, speed and memory as predicted for the target, and
    what was measured if that is recorded. `gates`: results of the gates on these; of a cell that is measured also of
    those on a figure that was not taken, which fail. `open_gates`: figures that other gates bound, which validation or
    a device will measure. `problem`: why the cell can't be built, or can't pass; then it will not be built.
    `recorded_problem`: why a cell that is measured does not pass, unless it is by failed gates alone.
    """

    cell: str
    recipe: str
    target: str
    calibration: Calibration = "none"
    budget: Budget | None = None
    kv_cache: str = ""
    candidates: tuple[str, ...] = ()
    context_length: int | None = None
    bundle_bytes: int | None = None
    figures: Mapping[str, Figure] | None = None
    gates: tuple[GateResult, ...] = ()
    open_gates: tuple[str, ...] = ()
    is_built: bool = False
    is_measured: bool = False
    problem: PhipackError | None = None
    recorded_problem: GateError | None = None

    @property
    def failures(self) -> tuple[Failure, ...]:
        """Every reason known by now why the cell would fail."""
        if (problem := self.problem or self.recorded_problem) is not None:
            return failures_of(self.cell, problem)
        return tuple(Failure(self.cell, str(gate)) for gate in self.gates if not gate.passed)


@dataclass(frozen=True)
class Inputs:
    """What the jobs of a release are made from, and where their records are.

    `checkpoint`: its facts alone where its files are elsewhere.
    """

    checkpoint: Checkpoint | CheckpointFacts
    settings: EvaluationSettings
    store: Store
    calibration: CalibrationSettings = field(default_factory=CalibrationSettings)

    @cached_property
    def evaluation(self) -> dict[str, object]:
        """The settings of the evaluation, with digests of texts and folders in place of their paths."""
        return evaluation_of(self.settings)

    @cached_property
    def calibration_text(self) -> CalibrationText:
        """What calibrated bundles learn from. Raises `CalibrationError` where it can't be read."""
        return read_calibration_text(self.calibration)

    def check_texts(self, cells: Sequence[Cell]) -> None:
        """Read the evaluation's texts and, where a cell is calibrated, its questions and the calibration's text.

        Raises:
            MeasurementError, CalibrationError: one can't be read.
            CalibrationError: the two share passages.
        """
        evaluation = plain_texts(self.settings)
        if any(cell.calibration != "none" for cell in cells):
            # Long sequences are of the built-in text where the evaluation's own is too short for them.
            evaluation |= {BUILT_IN_NAME: read_text(None)} | prompt_texts(self.settings)
            for name, text in evaluation.items():
                require_unseen(self.calibration_text, text, name)

    def calibration_key(self, calibration: Calibration) -> CalibrationKey | None:
        """Return what the key of a calibrated build has in addition; None for one that is not."""
        return None if calibration == "none" else CalibrationKey(calibration, self.calibration_text.digest)

    def settled(self, cell: Cell) -> Cell:
        """Return a cell with the context of its bundle, in tokens, and its budget in bytes or bits.

        Raises:
            FitError: the cell does not fit its target. RecipeError: its budget is too small or too large.
        """
        bounds = [asked[MEMORY].at_most for asked in cell.gates.values() if MEMORY in asked]
        recipe, context_length = stored_on(
            self.checkpoint.architecture,
            cell.recipe,
            cell.target,
            cell.context_length,
            memory=min((bound for bound in bounds if bound is not None), default=math.inf),
        )
        return replace(cell, recipe=recipe, context_length=context_length)

    def build_key(self, cell: Cell) -> str:
        """Return the key of a settled cell's build. For the first one, the checkpoint is hashed: every byte is read."""
        assert cell.context_length is not None
        learned = self.calibration_key(cell.calibration)
        return build_key(self.checkpoint.digest, cell.recipe, cell.context_length, learned)

    def walk_key(self, walk: CalibrationWalk) -> str:
        """Return the key of what is measured of the checkpoint before builds."""
        return walk_key(self.checkpoint.digest, walk, self.calibration_text.digest)

    def validation_key(self, cell: Cell, build: str) -> str:
        """Return the key of a cell's validation, given that of its build."""
        own = needs_own_runtime(cell)
        merged = self.checkpoint.merged_from is not None
        return validation_key(build, cell.recipe.format, self.evaluation, is_merged=merged, on_own_runtime=own)


@dataclass(frozen=True)
class CellPlanner:
    """Plans cells, which share sizes and records.

    `work_folder`: where bundles will lie while they are built, if that is on this machine: they must have room there.
    """

    inputs: Inputs
    work_folder: Path | None = None
    _sizes: dict[tuple[Recipe, Calibration, int], int] = field(default_factory=dict)
    _manifests: dict[str, Manifest | None] = field(default_factory=dict)
    _evidence: dict[str, Evidence | None] = field(default_factory=dict)
    _measurements: dict[str, tuple[Measurement, ...]] = field(default_factory=dict)
    _walks: dict[CalibrationWalk, bool] = field(default_factory=dict)

    def plan(self, cell: Cell) -> CellPlan:
        """Plan one cell. No weight is read; the checkpoint is hashed only where the store has records of builds."""
        recipe = cell.recipe
        plan = CellPlan(
            *(cell.name, recipe.name, cell.target.name, cell.calibration, recipe.budget, recipe.kv_cache),
            candidates=recipe.candidates,
        )
        try:
            cell = self.inputs.settled(cell)
            manifest, evidence = self.recorded(cell) if self._has_records else (None, None)
            bundle_bytes = self._bundle_bytes(cell, manifest)
        except PhipackError as error:
            return replace(plan, problem=error)
        figures = self._figures(cell, bundle_bytes, (manifest, evidence))
        results = gate_results(figures, cell.gates)
        problem = None if evidence is not None else _certain_problem(cell, results, self.inputs.settings)
        if problem is None and manifest is None:
            problem = self._too_large(bundle_bytes)
        still_open = [one for one in results if one.value is None and (evidence is None or _is_of_device(one))]
        return replace(
            plan,
            budget=cell.recipe.budget,
            context_length=cell.context_length,
            bundle_bytes=bundle_bytes,
            figures=figures,
            gates=tuple(result for result in results if result not in still_open),
            open_gates=tuple(result.figure for result in still_open),
            is_built=manifest is not None,
            is_measured=evidence is not None,
            problem=problem,
            recorded_problem=None if evidence is None else _recorded_problem(cell, evidence, results),
        )

    def recorded(self, cell: Cell) -> tuple[Manifest | None, Evidence | None]:
        """Return a settled cell's bundle and its figures, as far as any machine has recorded them.

        Asked once for each.
        """
        build = self.inputs.build_key(cell)
        if build not in self._manifests:
            self._manifests[build] = built_bundle(self.inputs.store, build)
        if (manifest := self._manifests[build]) is None:
            return None, None
        key = self.inputs.validation_key(cell, build)
        if key not in self._evidence:
            self._evidence[key] = recorded_evidence(self.inputs.store, key, manifest)
        return manifest, self._evidence[key]

    def is_measured(self, walk: CalibrationWalk) -> bool:
        """Return whether any machine has recorded a calibration, and the store has its files. Asked once for each."""
        if walk not in self._walks:
            self._walks[walk] = recorded_walk(self.inputs.store, self.inputs.walk_key(walk)) is not None
        return self._walks[walk]

    @cached_property
    def _has_records(self) -> bool:
        return has_records(self.inputs.store, "build")

    def _bundle_bytes(self, cell: Cell, manifest: Manifest | None) -> int:
        """Return the size of a bundle's files: as its manifest lists them, or as a build would write them."""
        assert cell.context_length is not None
        bundle = (cell.recipe, cell.calibration, cell.context_length)
        if bundle not in self._sizes:
            if manifest is not None:
                self._sizes[bundle] = sum(file.bytes for file in manifest.files)
            else:
                self._sizes[bundle] = planned_bytes(self.inputs.checkpoint, cell.recipe, cell.context_length)
        return self._sizes[bundle]

    def _figures(
        self, cell: Cell, bundle_bytes: int, known: tuple[Manifest | None, Evidence | None]
    ) -> dict[str, Figure]:
        """Return what is known of a cell: predicted, recorded, and measured on devices like the target."""
        manifest, evidence = known
        assert cell.context_length is not None
        at_most = "" if cell.recipe.budget is None or manifest is not None else ", at most"
        size = Figure(
            value=bundle_bytes,
            unit=FIGURES["artifact_bytes"][0],
            kind="predicted",
            on=f"all files of the bundle but manifest.json{at_most}",
        )
        figures = {"artifact_bytes": size} | ({} if evidence is None else evidence.figures)
        recipe = cell.recipe if manifest is None else recipe_of(manifest)
        figures |= predicted_figures(self.inputs.checkpoint.architecture, recipe, cell.target, cell.context_length)
        return figures if manifest is None else figures | device_figures(self._measured(manifest), cell.target)

    def _measured(self, manifest: Manifest) -> tuple[Measurement, ...]:
        if manifest.digest not in self._measurements:
            self._measurements[manifest.digest] = read_measurements(self.inputs.store, manifest.digest)
        return self._measurements[manifest.digest]

    def _too_large(self, bundle_bytes: int) -> BuildError | None:
        if self.work_folder is None or bundle_bytes <= (free := free_bytes(self.work_folder)):
            return None
        return BuildError(
            f"the bundle has {bundle_bytes / 1e9:.2f} GB, and {self.work_folder} has {free / 1e9:.2f} GB left",
            fix="free space, or move the project to a folder on another disk",
        )


def needs_own_runtime(cell: Cell) -> bool:
    """Return whether a gate bounds what only Core ML itself can show, which is a Mac's.

    Elsewhere the program in its package is evaluated: the same answers, but no speed and no memory. The other formats
    run in their own runtime everywhere.
    """
    bounded = {figure for asked in cell.gates.values() for figure in asked}
    return cell.recipe.format == "coreml" and not OWN_RUNTIME_FIGURES.isdisjoint(bounded)


def _certain_problem(cell: Cell, results: Sequence[GateResult], settings: EvaluationSettings) -> PhipackError | None:
    """Return why a cell can't pass, whatever will be measured; None where it may.

    A bundle is larger than planned by its manifest, so that a lower bound on its size is left open.
    """
    failed = [gate for gate in results if gate.value is not None and not gate.passed]
    certain = [str(gate) for gate in failed if (gate.figure, gate.bound[:2]) != ("artifact_bytes", ">=")]
    for gate in results:
        if gate.value is None and (never := never_taken(gate.figure, settings)) is not None:
            note = f'{never.why}: set {never.key} = "{never.value}" under [evaluation]'
            certain.append(str(gate.model_copy(update={"note": note})))
    if not bounds_accuracy(results):
        certain.append(NO_ACCURACY_GATE)
    return refusal_for(cell.name, certain) if certain else None


def _recorded_problem(cell: Cell, evidence: Evidence, results: Sequence[GateResult]) -> GateError | None:
    """Return why a cell that is measured does not pass: no gate is on accuracy, or a check of behaviour failed.

    None where nothing but gates, which are shown by themselves, may stand against it.
    """
    checks = evidence.model_copy(update={"gates": list(results)}).failed_checks
    if not checks and bounds_accuracy(results):
        return None
    failed = [str(gate) for gate in results if not gate.passed and not (gate.value is None and _is_of_device(gate))]
    return refusal_for(cell.name, [*failed, *checks] or [NO_ACCURACY_GATE])


def _is_of_device(gate: GateResult) -> bool:
    return gate.figure.startswith(DEVICE_PREFIX)


def failures_of(cell: str, problem: PhipackError) -> tuple[Failure, ...]:
    """Return every reason in a problem: of a failed gate its own, otherwise the one problem."""
    gates = problem.failures if isinstance(problem, GateError) else ()
    return tuple(gates) or (Failure(cell, problem.problem),)


def gate_results(figures: Mapping[str, Figure], gates: Mapping[str, Mapping[str, Gate]]) -> list[GateResult]:
    """Return the results of gates, which are grouped by their source: cell, project, target."""
    return [result for owner, asked in gates.items() for result in judge_figures(figures, asked, asked_by=owner)]


def refusal_for(name: str, shortcomings: Sequence[str]) -> GateError:
    """Return the error that says why a cell or bundle does not pass."""
    fix = (
        CHANGE
        if list(shortcomings) != [NO_ACCURACY_GATE]
        else "add a bound to the project file, in its [gates] if it has them; 0.2 nats is an example:\n"
        "    [gates]\n    kl_mean = { at_most = 0.2 }"
    )
    failures = [Failure(name, shortcoming) for shortcoming in shortcomings]
    return GateError(f"{name} does not pass: {'; '.join(shortcomings)}", failures=failures, fix=fix)


def evaluation_of(settings: EvaluationSettings) -> dict[str, object]:
    """Return the settings of an evaluation, with digests of texts and folders in place of their paths.

    Raises:
        MeasurementError: a text can't be read, or a folder has no questions or prompts.
    """
    texts = "\0".join(plain_texts(settings).values())
    folders = {"tasks": settings.tasks, "safety": settings.safety}
    digests = {name: None if folder is None else folder_digest(folder) for name, folder in folders.items()}
    return asdict(settings) | digests | {"text": digest_of_bytes(texts.encode())}
