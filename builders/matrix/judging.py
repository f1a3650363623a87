"""What becomes of a cell: its evidence against its gates, and why it does not pass. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from builders.matrix.cell_plan import CellPlan, failures_of, gate_results, refusal_for
from registry.bundle.manifest import Manifest
from registry.bundle.recipe import recipe_of
from registry.bundle.requirements import require_runnable
from targets.architecture import Architecture
from targets.budget import Budget
from targets.calibration import Calibration
from targets.device_evidence import device_figures
from targets.errors import Failure, FitError, GateError, PhipackError
from targets.evidence import Evidence
from targets.gates import Gate
from targets.measurement import Measurement
from targets.prediction import predicted_figures
from targets.project import Cell


@dataclass(frozen=True)
class CellOutcome:
    """What became of a cell. `problem` is None where it passed.

    `budget`: as it was asked for; what it came to is in the manifest. `kv_cache`: the type of keys and values, where it
    is not the format's own. `built`, `measured`: True where this run did so,
    False where any machine had before. `registered`: False too for a cell that passed where others of a release that is
    registered whole did not. `plan`: of a cell that was refused beforehand, neither built nor measured in this run.
    """

    cell: str
    recipe: str
    target: str
    calibration: Calibration = "none"
    budget: Budget | None = None
    kv_cache: str = ""
    manifest: Manifest | None = None
    evidence: Evidence | None = None
    built: bool = False
    measured: bool = False
    registered: bool = False
    problem: PhipackError | None = None
    plan: CellPlan | None = None

    @property
    def failures(self) -> tuple[Failure, ...]:
        """Every reason why the cell was not registered: each gate that failed, or the one problem."""
        return () if self.problem is None else failures_of(self.cell, self.problem)


def judge_cell(
    cell: Cell,
    architecture: Architecture,
    manifest: Manifest,
    evidence: Evidence,
    measurements: Sequence[Measurement] = (),
) -> CellOutcome:
    """Return a cell's outcome by its gates, with the evidence that is registered for it: predictions included.

    A bundle that the runtimes of the target's apps can't open does not pass.

    Args:
        cell: the cell.
        architecture: the checkpoint's.
        manifest: its bundle's.
        evidence: the figures that were measured on the bundle, as they are recorded.
        measurements: of the bundle on devices; those count that are of the cell's target.
    """
    on_target = predicted_figures(architecture, recipe_of(manifest), cell.target, manifest.model.context_length)
    on_target |= device_figures(measurements, cell.target)
    complete = evidence.model_copy(update={"target": cell.target.name, "figures": evidence.figures | on_target})
    found = judged(complete, cell.gates)
    problem: PhipackError | None = None if found.passed else refusal(cell.name, found)
    try:
        require_runnable(manifest, cell.target.offer, cell.target.os, cell.name)
    except FitError as error:
        problem = error
    return replace(outcome_of(cell), manifest=manifest, evidence=found, problem=problem)


def outcome_of(cell: Cell) -> CellOutcome:
    """Return the outcome of a cell, of which no more is known yet than what was asked for."""
    recipe = cell.recipe
    return CellOutcome(cell.name, recipe.name, cell.target.name, cell.calibration, recipe.budget, recipe.kv_cache)


def judged(evidence: Evidence, gates: Mapping[str, Mapping[str, Gate]]) -> Evidence:
    """Return the evidence with the results of `gates`, which are grouped by their source: cell, project, target."""
    return evidence.model_copy(update={"gates": gate_results(evidence.figures, gates)})


def refusal(name: str, evidence: Evidence) -> GateError:
    """Return the error that says why a cell or bundle with such evidence does not pass."""
    return refusal_for(name, evidence.shortcomings)
