"""A release as jobs: planned, grouped for a CI, and done without MLflow. Needs `phipack[build]` and a store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from builders.build_cache import BuildCache
from builders.checkpoint import Checkpoint
from builders.matrix.graph import Graph, Job
from builders.matrix.grouping import group_jobs, with_what_comes_before
from builders.matrix.planning import ReleasePlan
from builders.matrix.records import CheckpointFacts, recorded_checkpoint
from builders.matrix.work import Site, require_labels, run_jobs
from builders.release import Coordinator
from phipack.api.arguments import checkpoint_of
from phipack.api.job_results import JobOutcome, JobPlan, JobsReport, Matrix
from phipack.api.release_reports import planned_report
from phipack.api.results import ReleaseReport
from registry.store.protocol import Store
from targets.errors import CheckpointError, PhipackError, ProjectError, did_you_mean
from targets.formatting import count
from targets.progress import Notice, Progress
from targets.project import Cell, Project


def coordinator_of(project: Project, store: Store, home: Path, checkpoint_digest: str | None) -> Coordinator:
    """Return what plans and finishes a project's release.

    `checkpoint_digest`: of a checkpoint whose files are elsewhere; it must be that of the files that are here.

    Raises:
        CheckpointError: the checkpoint can't be read, has another digest, or no job has recorded it.
        ProjectError: a path that the project file states is wrong.
    """
    if checkpoint_digest is not None and not project.checkpoint.exists():
        project.require_paths(("evaluation", "calibration"))
        found: Checkpoint | CheckpointFacts | None = recorded_checkpoint(store, checkpoint_digest)
        if found is None:
            raise CheckpointError(
                f"{store.uri} has no record of checkpoint {checkpoint_digest}, and {project.checkpoint} is not here",
                fix="run a job of the release first (phipack release --defer-registration), or bring the checkpoint",
            )
    else:
        found = checkpoint_of(project)
        if checkpoint_digest is not None and found.digest != checkpoint_digest:
            raise CheckpointError(
                f"{project.checkpoint} is {found.digest}, not {checkpoint_digest}",
                fix="plan again with this checkpoint, or bring the one that was planned with",
            )
    return Coordinator(found, project.settings, BuildCache(home), store, project.calibration)


def plan_jobs(
    project: Project, cells: Sequence[Cell], store: Store, home: Path, checkpoint_digest: str | None
) -> JobPlan:
    """Plan the jobs of cells. Nothing is written, and MLflow is not asked. Raises as `coordinator_of`; `StoreError`."""
    coordinator = coordinator_of(project, store, home, checkpoint_digest)
    plan = coordinator.plan_jobs(cells)
    reports = tuple(planned_report(one) for one in plan.cells)
    release = ReleaseReport(project.model, project.version, dry_run=True, cells=reports)
    return JobPlan(release, coordinator.checkpoint.digest, plan.graph.jobs)


def matrix_of(plan: JobPlan, shards: int | None, most: int) -> Matrix:
    """Group the jobs that would run."""
    return Matrix(plan, group_jobs(Graph(plan.jobs), shards=shards, most=most))


def do_jobs(
    project: Project, cells: Sequence[Cell], names: Sequence[str], site: Site, on_progress: Progress
) -> JobsReport:
    """Do the jobs of cells that no machine has recorded: all of them, or those named with what they come after.

    Raises:
        ProjectError: there is no job of a name. ReleaseError: a named job needs another kind of machine.
        PhipackError: a cell is known to fail, and no job was named, or that cell's.
        CheckpointError, StoreError, MeasurementError: as planning raises.
    """
    coordinator = Coordinator(site.checkpoint, site.settings, site.cache, site.store, site.calibration)
    plan = coordinator.plan_jobs(cells, for_here=True)
    if not names or any(name not in plan.graph.by_name for name in names):
        refuse_what_fails(project, plan)
    wanted = [_job_named(name, plan.graph) for name in names] or plan.graph.pending
    for job in wanted if names else ():
        if not job.is_done:
            require_labels(job)  # before what it comes after is done in vain
    jobs = with_what_comes_before(plan.graph, wanted)
    on_progress(Notice(f"{project.model} {project.version}: {count(len(jobs), 'job')} on this machine"))
    outcomes = []
    for job, result in run_jobs(jobs, site):
        problem = result if isinstance(result, PhipackError) else None
        outcome = JobOutcome(job, result is True, problem)
        on_progress(Notice(_sentence(outcome)))
        outcomes.append(outcome)
    return JobsReport(project.model, str(project.version), site.checkpoint.digest, tuple(outcomes))


def site_of(project: Project, store: Store, home: Path, on_progress: Progress) -> Site:
    """Return this machine as a place where a project's jobs are done. Raises `CheckpointError`."""
    checkpoint = checkpoint_of(project)
    return Site(checkpoint, project.settings, BuildCache(home), store, on_progress, project.calibration)


def refuse_what_fails(project: Project, plan: ReleasePlan) -> None:
    """Raise where a cell is known to fail: the one problem, or all in one error."""
    problems = [one.problem for one in plan.cells if one.problem is not None]
    if len(problems) == 1:
        raise problems[0]
    reports = tuple(planned_report(one) for one in plan.cells)
    ReleaseReport(project.model, project.version, dry_run=True, cells=reports).raise_for_failures()


def _job_named(name: str, graph: Graph) -> Job:
    if name not in graph.by_name:
        near = did_you_mean(name, graph.by_name) if graph.by_name else "the cells of this project have no jobs"
        raise ProjectError(
            f"no job {name!r} here: it was planned with another project file, checkpoint or version of a tool",
            fix=f"use the versions of the machine that planned (pip install -c constraints.txt), or plan again; {near}",
        )
    return graph.by_name[name]


def _sentence(outcome: JobOutcome) -> str:
    if outcome.problem is not None:
        return f"{outcome.job.name}: FAILED: {outcome.problem}"
    return f"{outcome.job.name}: {'done' if outcome.done else 'recorded already'}"
