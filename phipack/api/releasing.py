"""A project file's cells, built, validated and registered: what `Registry.release` does. Needs `phipack[build]`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from builders.build_cache import BuildCache, build_tools
from builders.release import CellOutcome, CellPlan, Release
from phipack.api.arguments import as_checkpoint
from phipack.api.results import CellReport, ReleaseReport
from phipack.formatting import count
from registry.bundle.manifest import Manifest
from registry.ledger.ledger import Ledger
from registry.ledger.registration import Registration
from registry.ledger.release_inputs import checkpoint_inputs, evaluation_inputs, tool_inputs
from targets.evidence import Evidence
from targets.progress import Notice, Progress
from targets.project import Cell, Project


def run(project: Project, cells: Sequence[Cell], ledger: Ledger, home: Path, on_progress: Progress) -> ReleaseReport:
    """Do the cells one by one. A failed one is reported and the next goes on; an interrupt ends it, and keeps the rest.

    Raises:
        CheckpointError: the checkpoint can't be read. StoreError: nothing can be written there.
        RegistryError: nothing can be written there; or what is registered of this version was made from something else,
            or was promoted with other cells. Nothing was built.
    """
    release = _release(project, ledger, home, on_progress)
    promoters = project.roles.promoters
    origin = project.checkpoint if project.adapter is None else f"{project.checkpoint} with {project.adapter}"
    on_progress(Notice(f"{project.model} {project.version}: {count(len(cells), 'cell')} from {origin}"))
    # All of the project's cells, whichever are built here: promotion waits for them.
    names, inputs = [cell.name for cell in project.cells], _inputs(release, cells)
    ledger.plan_release(project.model, project.version, names, inputs=inputs, promoters=promoters)
    reports = []
    for outcome in release.run(tuple(cells)):
        report = _done(outcome)
        on_progress(Notice(_sentence(report)))
        reports.append(report)
    reports.sort(key=lambda report: names.index(report.cell))  # those that were refused beforehand came first
    return ReleaseReport(project.model, project.version, dry_run=False, cells=tuple(reports))


def plan(project: Project, cells: Sequence[Cell], ledger: Ledger, home: Path, on_progress: Progress) -> ReleaseReport:
    """Report what `run` would do, without building, measuring or registering anything. MLflow is not asked.

    Raises:
        CheckpointError: the checkpoint can't be read. StoreError: the store can't be read.
    """
    plans = _release(project, ledger, home, on_progress).plan(tuple(cells))
    reports = tuple(_planned(one) for one in plans)
    return ReleaseReport(project.model, project.version, dry_run=True, cells=reports)


def _release(project: Project, ledger: Ledger, home: Path, on_progress: Progress) -> Release:
    def register(cell: Cell, manifest: Manifest, evidence: Evidence) -> None:
        settings = evaluation_inputs(release.evaluation)
        ledger.register(Registration(project.model, project.version, cell.name, manifest, evidence, settings))

    release = Release(
        checkpoint=as_checkpoint(project.checkpoint, project.adapter),
        settings=project.settings,
        cache=BuildCache(home),
        store=ledger.store,
        register=register,
        on_progress=on_progress,
    )
    return release


def _inputs(release: Release, cells: Sequence[Cell]) -> dict[str, str]:
    """Return what these cells will be made from, as far as it is known before they are."""
    tools = {name: installed for cell in cells for name, installed in build_tools(cell.recipe.format).items()}
    weights = checkpoint_inputs(release.checkpoint.digest, release.checkpoint.merged_from)
    return weights | tool_inputs(tools) | evaluation_inputs(release.evaluation)


def _done(outcome: CellOutcome) -> CellReport:
    if outcome.plan is not None:  # it was refused beforehand
        return replace(_planned(outcome.plan), built=False, measured=False, problem=outcome.problem)
    manifest, evidence = outcome.manifest, outcome.evidence
    return CellReport(
        cell=outcome.cell,
        target=outcome.target,
        recipe=outcome.recipe,
        context_length=None if manifest is None else manifest.model.context_length,
        size_bytes=None if manifest is None else manifest.total_bytes,
        digest=None if manifest is None else manifest.digest,
        figures={} if evidence is None else evidence.figures,
        gates=() if evidence is None else tuple(evidence.gates),
        built=outcome.built,
        measured=outcome.measured,
        problem=outcome.problem,
    )


def _planned(one: CellPlan) -> CellReport:
    return CellReport(
        cell=one.cell,
        target=one.target,
        recipe=one.recipe,
        context_length=one.context_length,
        size_bytes=int(one.figures["artifact_bytes"].value) if one.figures else None,
        figures=one.figures or {},
        gates=one.gates,
        open_gates=one.open_gates,
        built=one.problem is None and not one.is_built,
        measured=one.problem is None and not one.is_measured,
        problem=one.problem,
    )


def _sentence(report: CellReport) -> str:
    if report.problem is not None:
        return f"{report.cell}: FAILED: {report.problem}"
    how = "built" if report.built else "built already"
    return f"{report.cell}: {report.recipe} {how}, passed, registered"
