"""What became of cells, or would, as reports."""

from __future__ import annotations

from dataclasses import replace

from builders.matrix.cell_plan import CellPlan
from builders.matrix.judging import CellOutcome
from phipack.api.results import CellReport


def done_report(outcome: CellOutcome) -> CellReport:
    """Report a cell of a release."""
    if outcome.plan is not None:  # it was refused beforehand
        return replace(planned_report(outcome.plan), built=False, measured=False, problem=outcome.problem)
    manifest, evidence = outcome.manifest, outcome.evidence
    return CellReport(
        cell=outcome.cell,
        target=outcome.target,
        recipe=outcome.recipe,
        calibration=outcome.calibration,
        budget=_spent(outcome),
        kv_cache=outcome.kv_cache,
        context_length=None if manifest is None else manifest.model.context_length,
        size_bytes=None if manifest is None else manifest.total_bytes,
        digest=None if manifest is None else manifest.digest,
        figures={} if evidence is None else evidence.figures,
        gates=() if evidence is None else tuple(evidence.gates),
        built=outcome.built,
        measured=outcome.measured,
        registered=outcome.registered,
        problem=outcome.problem,
    )


def planned_report(one: CellPlan) -> CellReport:
    """Report a cell of a dry run."""
    return CellReport(
        cell=one.cell,
        target=one.target,
        recipe=one.recipe,
        calibration=one.calibration,
        budget=None if one.budget is None else one.budget.label,
        kv_cache=one.kv_cache,
        candidates=one.candidates,
        context_length=one.context_length,
        size_bytes=int(one.figures["artifact_bytes"].value) if one.figures else None,
        figures=one.figures or {},
        gates=one.gates,
        open_gates=one.open_gates,
        built=one.problem is None and not one.is_built,
        measured=one.problem is None and not one.is_measured,
        problem=one.problem or one.recorded_problem,
    )


def _spent(outcome: CellOutcome) -> str | None:
    """Return a cell's budget as its bundle has it, else as it was asked for."""
    if outcome.manifest is not None and outcome.manifest.recipe.budget is not None:
        return outcome.manifest.recipe.budget.asked
    return None if outcome.budget is None else outcome.budget.label
