"""A project file's cells, built, validated and registered: what `Registry.release` does. Needs `phipack[build]`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from builders.build_cache import Workshop
from builders.checkpoint import open_checkpoint
from builders.release import CellOutcome, Release
from phipack.api.arguments import as_steps
from phipack.api.results import CellReport, ReleaseReport
from registry.ledger.ledger import Ledger
from registry.ledger.registration import Registration
from targets.progress import Notice, Progress
from targets.project import Cell, Project


def run(project: Project, cells: Sequence[Cell], ledger: Ledger, home: Path, on_progress: Progress) -> ReleaseReport:
    """Do the cells one by one. A failed one is reported and the next goes on; an interrupt ends it, and keeps the rest.

    Raises:
        CheckpointError: the checkpoint can't be read. StoreError, RegistryError: nothing can be written there.
    """
    checkpoint = open_checkpoint(project.checkpoint)
    on_progress(Notice(f"{project.model} {project.version}: {len(cells)} cells from {project.checkpoint}"))
    # All of the project's cells, whichever are built here: promotion waits for them.
    ledger.plan_release(project.model, project.version, [cell.name for cell in project.cells])
    release = Release(
        checkpoint=checkpoint,
        settings=project.settings,
        workshop=Workshop(home),
        store=ledger.store,
        register=lambda cell, manifest, evidence: ledger.register(
            Registration(project.model, project.version, cell.name, manifest, evidence)
        ),
        progress=as_steps(on_progress),
    )
    reports = []
    for outcome in release.run(tuple(cells)):
        report = _report(outcome)
        on_progress(Notice(_sentence(report)))
        reports.append(report)
    return ReleaseReport(project.model, project.version, dry_run=False, cells=tuple(reports))


def _report(outcome: CellOutcome) -> CellReport:
    cell, manifest = outcome.cell, outcome.manifest
    return CellReport(
        cell=cell.name,
        target=cell.target.name,
        recipe=cell.recipe,
        context_length=None if manifest is None else manifest.model.context_length,
        size_bytes=None if manifest is None else manifest.total_bytes,
        digest=None if manifest is None else manifest.digest,
        evidence=outcome.evidence,
        built=outcome.built_anew,
        measured=outcome.measured_anew,
        problem=outcome.problem,
    )


def _sentence(report: CellReport) -> str:
    if report.problem is not None:
        return f"{report.cell}: FAILED: {report.problem}"
    how = "built" if report.built else "built already"
    return f"{report.cell}: {report.recipe.name} {how}, passed, registered"
