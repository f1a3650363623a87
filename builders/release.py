"""A release: every cell of a project built, validated, gated and registered.

    cells ──plan_release──> graph ──work.py──> records in the store ──gates──> register
             (matrix/)               on this machine, or on many

What can be known beforehand is: sizes, predicted speed and memory, what is recorded, whether transformers reads the
checkpoint alike. `Release.plan` reports it, and a cell that fails by it is not built. `Release.run` then does what no
machine has recorded: a few bundles at a time from one read of the checkpoint; then the cells are validated one by one.
A cell that fails is reported and the next one goes on; what was done for it stays recorded, so the next run starts
where this one failed. Nothing is registered for a cell that fails: its version stays free.

`Coordinator.finish` registers what many machines have done, all cells or none, and needs no checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from builders.build_cache import BuildCache
from builders.checkpoint import Checkpoint
from builders.matrix.cell_plan import CellPlan, CellPlanner, Inputs
from builders.matrix.graph import Job
from builders.matrix.judging import CellOutcome, judge_cell, outcome_of
from builders.matrix.planning import ReleasePlan, plan_release
from builders.matrix.records import CheckpointFacts
from builders.matrix.work import JobResult, Site, check_context, missing_labels, run_builds, run_job, validated
from registry.bundle.manifest import Manifest
from registry.store.measurements import read_measurements
from registry.store.protocol import Store
from targets.calibration import CalibrationSettings
from targets.errors import PhipackError, ReleaseError
from targets.evaluation import EvaluationSettings
from targets.evidence import Evidence
from targets.progress import Progress, silent
from targets.project import Cell

# Puts a cell that passed into the registry.
Register = Callable[[Cell, Manifest, Evidence], object]


@dataclass(frozen=True)
class Coordinator:
    """Plans a release, and registers what machines have done. `checkpoint`: its facts alone will do."""

    checkpoint: Checkpoint | CheckpointFacts
    settings: EvaluationSettings
    cache: BuildCache
    store: Store
    calibration: CalibrationSettings = field(default_factory=CalibrationSettings)

    @cached_property
    def inputs(self) -> Inputs:
        """What the release is made from."""
        return Inputs(self.checkpoint, self.settings, self.store, self.calibration)

    def planner(self, *, for_here: bool) -> CellPlanner:
        """Return a planner, which asks the store for each record once. `for_here`: this machine does the jobs."""
        return CellPlanner(self.inputs, self.cache.work_folder if for_here else None)

    def plan_jobs(self, cells: Sequence[Cell], *, for_here: bool = False) -> ReleasePlan:
        """Return the release's cells and jobs. The checkpoint is hashed, which reads it once; nothing is written.

        `for_here`: this machine does the jobs, so it must have room for them.

        Raises:
            StoreError: the store can't be asked which bundles it has.
            MeasurementError, CalibrationError: a text can't be read, or the two share passages.
        """
        self.inputs.check_texts(cells)
        return plan_release(self.planner(for_here=for_here), cells, with_estimates=not for_here)

    def finish(self, cells: Sequence[Cell], register: Register) -> tuple[CellOutcome, ...]:
        """Judge what was recorded for each cell, and register all of them where all pass, otherwise none.

        A registration that is interrupted goes on where it stopped when it is run again.
        """
        planner = self.planner(for_here=False)
        plan = plan_release(planner, cells, with_estimates=False)
        plans = {one.cell: one for one in plan.cells}
        outcomes = [self._judged(cell, planner, plans[cell.name], plan.jobs_of(cell.name)) for cell in cells]
        if any(outcome.problem is not None for outcome in outcomes):
            return tuple(outcomes)
        for place, (cell, outcome) in enumerate(zip(cells, outcomes, strict=True)):
            outcomes[place] = registered(cell, outcome, register)
            if outcomes[place].problem is not None:
                break
        return tuple(outcomes)

    def _judged(self, cell: Cell, planner: CellPlanner, plan: CellPlan, jobs: Sequence[Job]) -> CellOutcome:
        outcome = outcome_of(cell)
        if plan.problem is not None:
            return replace(outcome, problem=plan.problem, plan=plan)
        manifest, evidence = planner.recorded(self.inputs.settled(cell))
        if manifest is not None and evidence is not None:
            return judge_cell(
                cell, self.checkpoint.architecture, manifest, evidence, read_measurements(self.store, manifest.digest)
            )
        missing = [job.name for job in jobs if not job.is_done and job.kind in ("build", "validate")]
        problem = ReleaseError(
            f"{cell.name}: not done: {' and '.join(missing)}",
            fix=f"run phipack release --defer-registration --job {missing[-1]}, then phipack release --finish again",
        )
        return replace(outcome, manifest=manifest, problem=problem)


@dataclass(frozen=True)
class Release:
    """A release by this machine. `on_progress` receives steps whose subject is the cell."""

    checkpoint: Checkpoint
    settings: EvaluationSettings
    cache: BuildCache
    store: Store
    register: Register
    on_progress: Progress = silent
    calibration: CalibrationSettings = field(default_factory=CalibrationSettings)

    @cached_property
    def coordinator(self) -> Coordinator:
        """What plans the release."""
        return Coordinator(self.checkpoint, self.settings, self.cache, self.store, self.calibration)

    @cached_property
    def site(self) -> Site:
        """Where the jobs are done."""
        return Site(self.checkpoint, self.settings, self.cache, self.store, self.on_progress, self.calibration)

    @property
    def evaluation(self) -> Mapping[str, object]:
        """The settings of the evaluation, with the text's digest in place of its path."""
        return self.coordinator.inputs.evaluation

    def run(self, cells: Sequence[Cell]) -> Iterator[CellOutcome]:
        """Build what is missing, then validate and register the cells one by one, yielding each outcome as it comes.

        A cell that is known to fail is not built; its outcome comes first. An interrupt ends it; what was done is kept.
        """
        self.store.check_writable()
        self.coordinator.inputs.check_texts(cells)
        planner = self.coordinator.planner(for_here=True)
        refused = self._refused_beforehand([planner.plan(cell) for cell in cells])
        yield from refused.values()
        cells = [cell for cell in cells if cell.name not in refused]
        plan = plan_release(planner, cells, with_estimates=False)
        builds = [job for job in plan.graph if job.kind == "build"]
        if builds:
            self.site.record_checkpoint()
        built = run_builds(builds, self.site, {job.name: job.cells[0] for job in builds})
        for cell in cells:
            try:
                yield self._finish(cell, plan.jobs_of(cell.name), built)
            except PhipackError as error:
                yield replace(outcome_of(cell), problem=error)

    def plan(self, cells: Sequence[Cell]) -> tuple[CellPlan, ...]:
        """Return what `run` would do for each cell. No tensor is read, and nothing is written.

        The checkpoint is hashed, which reads its files once, only where the store has records of builds.

        Raises:
            StoreError: the store can't be asked which bundles it has.
            MeasurementError, CalibrationError: a text can't be read, or the two share passages.
        """
        self.coordinator.inputs.check_texts(cells)
        planner = self.coordinator.planner(for_here=True)
        return tuple(planner.plan(cell) for cell in cells)

    def _refused_beforehand(self, cell_plans: Sequence[CellPlan]) -> dict[str, CellOutcome]:
        """Return the outcome of each cell that would be built or measured only to fail then, by the cell's name."""
        plans = {plan.cell: plan for plan in cell_plans}
        problems = {name: plan.problem for name, plan in plans.items() if plan.problem is not None}
        to_measure: dict[int, list[str]] = {}  # names of cells by their context's length
        for name, plan in plans.items():
            if plan.context_length is not None and not plan.is_measured and name not in problems:
                to_measure.setdefault(plan.context_length, []).append(name)
        for context_length, names in to_measure.items():
            try:
                check_context(self.site, context_length, names[0])
            except PhipackError as error:
                problems |= dict.fromkeys(names, error)
        return {
            plan.cell: CellOutcome(
                plan.cell,
                plan.recipe,
                plan.target,
                plan.calibration,
                plan.budget,
                plan.kv_cache,
                problem=problems[plan.cell],
                plan=plan,
            )
            for plan in cell_plans
            if plan.cell in problems
        }

    def _finish(self, cell: Cell, jobs: Sequence[Job], built: Mapping[str, JobResult]) -> CellOutcome:
        """Validate, judge and register a cell whose bundle is built."""
        build, validation = (job for job in jobs if job.kind in ("build", "validate"))
        result = built[build.name]
        if isinstance(result, PhipackError):
            raise result
        manifest, evidence, was_measured = validated(validation, self.site, cell.name)
        for job in (job for job in jobs if job.kind == "measure"):
            if not job.is_done and not missing_labels(job):  # without such a phone, the gate says what to do
                run_job(job, self.site)
        outcome = judge_cell(
            cell, self.checkpoint.architecture, manifest, evidence, read_measurements(self.store, manifest.digest)
        )
        outcome = replace(outcome, built=result, measured=was_measured)
        return outcome if outcome.problem is not None else registered(cell, outcome, self.register)


def registered(cell: Cell, outcome: CellOutcome, register: Register) -> CellOutcome:
    """Register a cell that passed, and return its outcome."""
    assert outcome.manifest is not None
    assert outcome.evidence is not None
    try:
        register(cell, outcome.manifest, outcome.evidence)
    except PhipackError as error:
        return replace(outcome, problem=error)
    return replace(outcome, registered=True)
