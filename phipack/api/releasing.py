"""A project file's cells, built, validated and registered: what `Registry.release` and `finish` do.

Needs `phipack[build,registry]`; `finish` uses neither the checkpoint's files nor a runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from builders.build_cache import BuildCache
from builders.checkpoint import Checkpoint
from builders.matrix.keys import build_tools
from builders.matrix.records import CheckpointFacts
from builders.release import Release
from phipack.api.arguments import checkpoint_of
from phipack.api.jobs import coordinator_of
from phipack.api.release_reports import done_report, planned_report
from phipack.api.reporting import with_pages
from phipack.api.results import CellReport, ReleaseReport
from registry.bundle.manifest import Manifest
from registry.ledger.ledger import Ledger
from registry.ledger.registration import Registration
from registry.ledger.release_inputs import checkpoint_inputs, evaluation_inputs, tool_inputs
from targets.evidence import Evidence
from targets.formatting import count
from targets.progress import Notice, Progress, phase
from targets.project import Cell, Project

Evaluation = Mapping[str, object]


def run(project: Project, cells: Sequence[Cell], ledger: Ledger, home: Path, on_progress: Progress) -> ReleaseReport:
    """Do the cells one by one. A failed one is reported and the next goes on; an interrupt ends it, and keeps the rest.

    Raises:
        CheckpointError: the checkpoint can't be read. StoreError: nothing can be written there.
        RegistryError: nothing can be written there; or what is registered of this version was made from something else,
            or was promoted with other cells. Nothing was built.
    """
    release = _release(project, ledger, home, on_progress)
    origin = project.checkpoint if project.adapter is None else f"{project.checkpoint} with {project.adapter}"
    on_progress(Notice(f"{project.model} {project.version}: {count(len(cells), 'cell')} from {origin}"))
    names = note_plan(project, cells, ledger, release.checkpoint, release.evaluation, on_progress)
    reports = []
    for outcome in release.run(tuple(cells)):
        report = done_report(outcome)
        on_progress(Notice(sentence(report)))
        reports.append(report)
    reports.sort(key=lambda report: names.index(report.cell))  # those that were refused beforehand came first
    return ReleaseReport(project.model, project.version, dry_run=False, cells=tuple(reports))


def plan(project: Project, cells: Sequence[Cell], ledger: Ledger, home: Path, on_progress: Progress) -> ReleaseReport:
    """Report what `run` would do, without building, measuring or registering anything. MLflow is not asked.

    Raises:
        CheckpointError: the checkpoint can't be read. StoreError: the store can't be read.
    """
    plans = _release(project, ledger, home, on_progress).plan(tuple(cells))
    reports = tuple(planned_report(one) for one in plans)
    return ReleaseReport(project.model, project.version, dry_run=True, cells=reports)


def finish(
    project: Project, ledger: Ledger, home: Path, checkpoint_digest: str | None, on_progress: Progress
) -> ReleaseReport:
    """Register what machines have built and measured: all cells where all pass, otherwise none.

    Raises:
        CheckpointError: as `coordinator_of`. StoreError: the store can't be read.
        RegistryError: nothing can be written there; or what is registered of this version was made from something else,
            or was promoted with other cells.
    """
    coordinator = coordinator_of(project, ledger.store, home, checkpoint_digest)
    evaluation = coordinator.inputs.evaluation
    note_plan(project, project.cells, ledger, coordinator.checkpoint, evaluation, on_progress)
    outcomes = coordinator.finish(project.cells, _register(project, ledger, lambda: evaluation, on_progress))
    reports = tuple(done_report(outcome) for outcome in outcomes)
    for report in reports:
        on_progress(Notice(sentence(report)))
    return ReleaseReport(project.model, project.version, dry_run=False, cells=reports)


def _release(project: Project, ledger: Ledger, home: Path, on_progress: Progress) -> Release:
    release = Release(
        checkpoint=checkpoint_of(project),
        settings=project.settings,
        cache=BuildCache(home),
        store=ledger.store,
        register=_register(project, ledger, lambda: release.evaluation, on_progress),
        on_progress=on_progress,
        calibration=project.calibration,
    )
    return release


def _register(
    project: Project, ledger: Ledger, evaluation: Callable[[], Evaluation], on_progress: Progress
) -> Callable[[Cell, Manifest, Evidence], None]:
    def register(cell: Cell, manifest: Manifest, evidence: Evidence) -> None:
        settings = evaluation_inputs(evaluation())
        entry = Registration(project.model, project.version, cell.name, manifest, evidence, settings)
        with phase(on_progress, "report", cell.name):
            entry = with_pages(ledger, entry, {cell.target.name: cell.target}, on_progress)
        with phase(on_progress, "register", cell.name):
            ledger.register(entry)

    return register


def note_plan(
    project: Project,
    cells: Sequence[Cell],
    ledger: Ledger,
    checkpoint: Checkpoint | CheckpointFacts,
    evaluation: Evaluation,
    on_progress: Progress,
) -> list[str]:
    """Note all of the project's cells, whichever are done here, as promotion waits for them; return their names.

    Refused where these cells would be made from something else than those that are registered.
    """
    names = [cell.name for cell in project.cells]
    tools = {name: installed for cell in cells for name, installed in build_tools(cell.recipe.format).items()}
    with phase(on_progress, "hash"):
        inputs = checkpoint_inputs(checkpoint.digest, checkpoint.merged_from)
    inputs |= tool_inputs(tools) | evaluation_inputs(evaluation)
    with phase(on_progress, "register"):
        ledger.plan_release(
            project.model,
            project.version,
            names,
            inputs=inputs,
            promoters=project.roles.promoters,
            reason=project.reason,
        )
    return names


def sentence(report: CellReport) -> str:
    """Return what became of a cell."""
    if report.problem is not None:
        return f"{report.cell}: FAILED: {str(report.problem).removeprefix(f'{report.cell} ')}"
    how = "built" if report.built else "built already"
    return f"{report.cell}: {report.recipe} {how}, passed, {'registered' if report.registered else 'not registered'}"
