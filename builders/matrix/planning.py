"""The graph of a release: the jobs of its cells, which of them are done, and what each needs.

Cells that share a bundle share its build, and its validation where their gates ask for the same figures. What builds
that are not done learn from the checkpoint is measured in jobs of its own, which they share. Keys are made from
digests, so the checkpoint is hashed, which reads every byte once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from builders.matrix.cell_plan import CellPlan, CellPlanner, Inputs, needs_own_runtime
from builders.matrix.graph import Graph, Job, Kind, Needs, calibration_name, job_name
from builders.matrix.keys import measurement_key
from builders.matrix.measuring import are_known, device_figures_of, measurement_needs
from builders.matrix.rates import Rates, build_needs, read_rates, validation_needs, walk_needs
from builders.quantization.calibration.walks import walks_of
from builders.validation.amounts import planned_validation
from targets.calibration import labelled
from targets.project import Cell
from targets.recipes import Recipe

MACOS = "macos"


@dataclass(frozen=True)
class ReleasePlan:
    """What a release would do: its cells with what is known of each, and the jobs of those that may pass."""

    cells: tuple[CellPlan, ...]
    graph: Graph

    def jobs_of(self, cell: str) -> tuple[Job, ...]:
        """Return the jobs that a cell needs, in order; none for one that is known to fail."""
        return self.graph.of_cell(cell)


def plan_release(planner: CellPlanner, cells: Sequence[Cell], *, with_estimates: bool = True) -> ReleasePlan:
    """Plan a release. `with_estimates`: what jobs have recorded is read for their needs, some requests to the store.

    Raises:
        StoreError: the store can't be asked.
        MeasurementError: the evaluation's text can't be read.
    """
    plans = tuple(planner.plan(cell) for cell in cells)
    by_name = {cell.name: cell for cell in cells}
    rates = read_rates(planner.inputs.store) if with_estimates else Rates({})
    estimates = _Estimates(planner.inputs, rates)
    jobs: dict[str, Job] = {}
    cells_of: dict[str, list[str]] = {}
    for plan in plans:
        if plan.problem is None:
            for job in _jobs(planner, by_name[plan.cell], plan, estimates):
                jobs.setdefault(job.name, job)
                cells_of.setdefault(job.name, []).append(plan.cell)
    return ReleasePlan(plans, Graph(replace(job, cells=tuple(cells_of[name])) for name, job in jobs.items()))


@dataclass(frozen=True)
class _Estimates:
    """What jobs are estimated to need. Validations are counted once for all cells that share one."""

    inputs: Inputs
    rates: Rates
    _validations: dict[tuple[Recipe, int, bool], Needs] = field(default_factory=dict)

    def validation(self, recipe: Recipe, context_length: int, bundle_bytes: int, *, on_mac: bool) -> Needs:
        key = recipe, context_length, on_mac
        if key not in self._validations:
            settings, architecture = self.inputs.settings, self.inputs.checkpoint.architecture
            planned = planned_validation(settings, architecture, recipe, context_length, on_mac=on_mac)
            self._validations[key] = validation_needs(self.rates, planned, bundle_bytes)
        return self._validations[key]


def _jobs(planner: CellPlanner, cell: Cell, plan: CellPlan, estimates: _Estimates) -> tuple[Job, ...]:
    assert plan.bundle_bytes is not None
    inputs, rates = planner.inputs, estimates.rates
    cell = inputs.settled(cell)
    recipe, context, architecture = cell.recipe, cell.context_length, inputs.checkpoint.architecture
    assert context is not None

    def job(kind: Kind, key: str, needs: Needs, *, after: tuple[str, ...] = (), is_done: bool) -> Job:
        budget = "" if recipe.budget is None else recipe.budget.in_names
        name = job_name(kind, labelled(recipe.name, cell.calibration, budget, recipe.kv_cache), context, key)
        return Job(
            name=name,
            kind=kind,
            key=key,
            after=after,
            needs=needs,
            is_done=is_done,
            recipe=recipe.name,
            context_length=context,
            calibration=cell.calibration,
            budget=recipe.budget,
            candidates=recipe.candidates,
            kv_cache=recipe.kv_cache,
        )

    key = inputs.build_key(cell)
    needs = build_needs(rates, architecture, recipe, plan.bundle_bytes, cell.calibration)
    calibrations = () if plan.is_built else _calibrations(planner, cell, rates)
    build = job("build", key, needs, after=tuple(one.name for one in calibrations), is_done=plan.is_built)
    needs = estimates.validation(recipe, context, plan.bundle_bytes, on_mac=needs_own_runtime(cell))
    needs = replace(needs, labels=frozenset({MACOS} if needs_own_runtime(cell) else ()))
    validation = inputs.validation_key(cell, key)
    jobs = *calibrations, build, job("validate", validation, needs, after=(build.name,), is_done=plan.is_measured)
    if not (figures := device_figures_of(cell)):
        return jobs
    measurement = job(
        "measure",
        measurement_key(key, cell.target.name),
        measurement_needs(cell.target, plan.bundle_bytes),
        after=(build.name,),
        is_done=are_known(figures, plan.gates),
    )
    return *jobs, replace(measurement, target=cell.target.name, soc=cell.target.soc)


def _calibrations(planner: CellPlanner, cell: Cell, rates: Rates) -> tuple[Job, ...]:
    """Return the jobs that measure what a cell's build needs."""
    found = []
    for walk in walks_of(cell.recipe, cell.calibration):
        key = planner.inputs.walk_key(walk)
        job = Job(
            name=calibration_name(walk, key),
            kind="calibrate",
            key=key,
            needs=walk_needs(rates, planner.inputs.checkpoint.architecture, walk),
            is_done=planner.is_measured(walk),
            calibration=walk.level,
            blocks=walk.blocks,
        )
        found.append(job)
    return tuple(found)
