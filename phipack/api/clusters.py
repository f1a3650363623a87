"""A release's jobs on a cluster. Needs `phipack[build,cluster]`: dask's distributed is imported when one is used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from builders.build_cache import BuildCache
from builders.matrix.cluster.address import ClusterAddress
from builders.matrix.cluster.coordinator import run_graph
from builders.matrix.cluster.survey import Survey, survey
from builders.matrix.cluster.work import ReleaseWork, release_work
from builders.release import Coordinator
from phipack.api.arguments import checkpoint_of
from phipack.api.job_results import JobOutcome, JobsReport
from phipack.api.jobs import refuse_what_fails
from phipack.api.releasing import finish, note_plan, sentence
from phipack.api.results import ReleaseReport
from registry.ledger.ledger import Ledger
from registry.store.protocol import Store
from targets.formatting import count
from targets.progress import Notice, Progress, silent
from targets.project import Cell, Project


@dataclass(frozen=True)
class ClusterUse:
    """A project's release on a cluster: what plans it, where its jobs run, and where what they make is."""

    project: Project
    store: Store
    home: Path
    where: ClusterAddress

    def coordinator(self) -> Coordinator:
        """Return what plans and finishes the release. Raises `CheckpointError`."""
        checkpoint = checkpoint_of(self.project)
        cache = BuildCache(self.home)
        return Coordinator(checkpoint, self.project.settings, cache, self.store, self.project.calibration)

    def work(self) -> ReleaseWork:
        """Return what workers must know. Workers of this machine share the project's folder with it."""
        project = self.project
        checkpoint = checkpoint_of(project)
        home = self.home if self.where.local_workers is not None else None
        calibrates = any(cell.calibration != "none" for cell in project.cells)
        return release_work(
            checkpoint,
            project.settings,
            self.store,
            (project.checkpoint, project.adapter),
            home,
            project.calibration if calibrates else None,
        )


def do_jobs_on_cluster(use: ClusterUse, cells: Sequence[Cell], on_progress: Progress) -> JobsReport:
    """Have the jobs of cells done that no machine has recorded; register nothing.

    Raises:
        PhipackError: a cell is known to fail. Nothing was submitted.
        CheckpointError, StoreError, MeasurementError: as planning raises.
        ClusterError, ClusterUnreachableError: the cluster can't be used.
    """
    project = use.project
    use.store.check_writable()
    coordinator = use.coordinator()
    plan = coordinator.plan_jobs(cells)
    refuse_what_fails(project, plan)
    pending = len(plan.graph.pending)
    on_progress(Notice(f"{project.model} {project.version}: {count(pending, 'job')} on cluster {use.where.text}"))
    outcomes: tuple[JobOutcome, ...] = ()
    if pending:
        done = run_graph(plan.graph, use.work(), use.where, on_progress=on_progress)
        outcomes = tuple(
            JobOutcome(one.job, one.problem is None and one.tries > 0, one.problem)
            for one in done
            if not one.job.is_done
        )
    return JobsReport(project.model, str(project.version), coordinator.checkpoint.digest, outcomes)


def run_on_cluster(use: ClusterUse, ledger: Ledger, on_progress: Progress) -> ReleaseReport:
    """Have a cluster do all of a project's jobs, then register its cells: all where all pass, otherwise none.

    Raises:
        PhipackError: a cell is known to fail. Nothing was built.
        CheckpointError, StoreError: as `run`.
        RegistryError: as `run`. ClusterError, ClusterUnreachableError: the cluster can't be used.
    """
    project = use.project
    coordinator = use.coordinator()
    note_plan(project, project.cells, ledger, coordinator.checkpoint, coordinator.inputs.evaluation, on_progress)
    jobs = do_jobs_on_cluster(use, project.cells, on_progress)
    done = {job.job.name for job in jobs.outcomes if job.done}
    problems = {cell: job.problem for job in reversed(jobs.outcomes) if job.problem for cell in job.job.cells}
    report = finish(project, ledger, use.home, None, silent if problems else on_progress)
    cells = []
    for cell in report.cells:
        own = {job.job.kind for job in jobs.outcomes if job.job.name in done and cell.cell in job.job.cells}
        problem = problems.get(cell.cell, cell.problem)
        cells.append(replace(cell, built="build" in own, measured="validate" in own, problem=problem))
        if problems:
            on_progress(Notice(sentence(cells[-1])))
    return replace(report, cells=tuple(cells))


def survey_cluster(where: ClusterAddress, use: ClusterUse | None, cells: Sequence[Cell]) -> Survey:
    """Return what a cluster has and, for a project, which jobs of its cells nobody there can do.

    Raises:
        ClusterError, ClusterUnreachableError: the cluster can't be used.
        CheckpointError, StoreError, MeasurementError: as planning raises.
    """
    if use is None:
        return survey(where)
    return survey(where, use.coordinator().plan_jobs(cells).graph.pending, use.work())
