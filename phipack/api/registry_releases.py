"""The part of `Registry` that makes releases: on this machine, or as jobs on many."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from phipack.api.arguments import AnyPath, as_project, as_reference
from phipack.api.connection import RegistryConnection
from phipack.api.results import ReleaseReport
from targets.errors import MalformedReferenceError
from targets.progress import Progress
from targets.project import Project
from targets.references import Reference

if TYPE_CHECKING:
    from builders.matrix.cluster.address import ClusterAddress
    from builders.matrix.cluster.survey import Survey
    from phipack.api.clusters import ClusterUse
    from phipack.api.job_results import JobPlan, JobsReport, Matrix


class ReleaseMethods(RegistryConnection):
    """Releases, planned, done and finished."""

    def plan_release(self, reference: str | Reference, cells: Sequence[str], *, reason: str = "") -> None:
        """Note which cells a version (`MODEL:1.0.0`) will have: it is not promoted as a whole before all are there.

        `release` does this; call it where you register cells one by one. The project file's lists of promoters, if it
        is the model's, are noted too: from then on they hold from everywhere.

        Args:
            reference: the version.
            cells: names of all its cells.
            reason: why it is made; an empty one leaves what was noted.

        Raises:
            RegistryError: the version was promoted with other cells, or for another reason.
        """
        wanted = as_reference(reference)
        if wanted.version is None:
            raise MalformedReferenceError(f"{wanted} does not name a version", fix="write MODEL:1.0.0")
        roles = self._roles(wanted.model)
        promoters = None if roles is None else roles.promoters
        self._ledger.plan_release(wanted.model, wanted.version, cells, promoters=promoters, reason=reason)

    def release(
        self,
        project: AnyPath | Project,
        only: Iterable[str] = (),
        *,
        on_progress: Progress | None = None,
        dry_run: bool = False,
        cluster: str | ClusterAddress | None = None,
    ) -> ReleaseReport:
        """Build, validate and register every cell of a project file. Needs `phipack[build,registry]`.

        Args:
            project: the project file.
            only: names of the cells to do, as a job of a CI matrix would; all by default.
            on_progress: called with each step; its `subject` is the cell.
            dry_run: build and register nothing: report sizes, what the cache holds, and what predictions fail.
            cluster: a dask cluster that does the jobs (`tls://scheduler:8786`, a scheduler's file, `local:2`); then all
                cells are registered if all pass, otherwise none, and `only` is not taken. Needs `phipack[cluster]`.

        Returns:
            What became of each cell. A cell that fails raises nothing here: see `ReleaseReport.raise_for_failures`.

        Raises:
            ClusterError, ClusterUnreachableError: the cluster can't be used.
        """
        from phipack.api.releasing import plan, run

        opened = as_project(project)
        cells = opened.cells_named(tuple(only))
        if cluster is not None and not dry_run:
            from phipack.api.clusters import run_on_cluster

            use = self._cluster_use(opened, cluster)
            return run_on_cluster(use, self._ledger, on_progress or self._on_progress)
        do = plan if dry_run else run
        return do(opened, cells, self._ledger, self.home, on_progress or self._on_progress)

    def plan(
        self, project: AnyPath | Project, only: Iterable[str] = (), *, checkpoint_digest: str | None = None
    ) -> JobPlan:
        """Return the jobs of a project's release: what is recorded, what would run, and what it needs.

        MLflow is not asked, and nothing is written. Needs `phipack[build]`.

        Args:
            project: the project file.
            only: names of cells; all by default.
            checkpoint_digest: of a checkpoint whose files are elsewhere, if jobs have recorded it.

        Raises:
            CheckpointError: the checkpoint can't be read, or no job has recorded it.
        """
        from phipack.api.jobs import plan_jobs

        opened = as_project(project)
        return plan_jobs(opened, opened.cells_named(tuple(only)), self.store, self.home, checkpoint_digest)

    def matrix(
        self,
        project: AnyPath | Project,
        only: Iterable[str] = (),
        *,
        shards: int | None = None,
        max_jobs: int = 256,
        checkpoint_digest: str | None = None,
    ) -> Matrix:
        """Return the jobs that would run in groups, one for each job of a CI. Arguments and errors as `plan`.

        Args:
            project: the project file.
            only: names of cells; all by default.
            shards: make at most so many groups for each kind of machine; by default one for every three bundles.
            max_jobs: the most groups in all.
            checkpoint_digest: as `plan` takes it.
        """
        from phipack.api.jobs import matrix_of

        return matrix_of(self.plan(project, only, checkpoint_digest=checkpoint_digest), shards, max_jobs)

    def run_jobs(
        self,
        project: AnyPath | Project,
        only: Iterable[str] = (),
        *,
        jobs: Iterable[str] = (),
        cluster: str | ClusterAddress | None = None,
        on_progress: Progress | None = None,
    ) -> JobsReport:
        """Build and validate on this machine, and register nothing: `finish` does, wherever MLflow is reached.

        Only the store is used. What any machine has recorded is not done again. Needs `phipack[build]`.

        Args:
            project: the project file.
            only: names of the cells whose jobs are done; all by default.
            jobs: names of jobs; with each, what it comes after is done too where it is missing.
            cluster: a dask cluster that does the jobs in place of this machine; `jobs` is not taken then.
            on_progress: called with each step; its `subject` is the job.

        Returns:
            What became of each job. One that fails raises nothing here: see `JobsReport.raise_for_failures`.

        Raises:
            ProjectError: there is no job of a name. ReleaseError: a named job needs another kind of machine.
            PhipackError: a cell is known to fail, and no job was named, or that cell's. Nothing was built.
        """
        from phipack.api.jobs import do_jobs, site_of

        opened, on_progress = as_project(project), on_progress or self._on_progress
        if cluster is not None:
            from phipack.api.clusters import do_jobs_on_cluster

            cells = opened.cells_named(tuple(only))
            return do_jobs_on_cluster(self._cluster_use(opened, cluster), cells, on_progress)
        site = site_of(opened, self.store, self.home, on_progress)
        return do_jobs(opened, opened.cells_named(tuple(only)), tuple(jobs), site, on_progress)

    def workers(
        self, cluster: str | ClusterAddress, project: AnyPath | Project | None = None, only: Iterable[str] = ()
    ) -> Survey:
        """Return what a dask cluster has and, for a project, which jobs of its cells nobody there can do.

        Needs `phipack[build,cluster]`. Nothing is submitted.

        Raises:
            ClusterError, ClusterUnreachableError: the cluster can't be used.
            CheckpointError: the project's checkpoint can't be read.
        """
        from phipack.api.clusters import survey_cluster

        if project is None:
            return survey_cluster(_as_cluster(cluster), None, ())
        use = self._cluster_use(as_project(project), cluster)
        return survey_cluster(use.where, use, use.project.cells_named(tuple(only)))

    def _cluster_use(self, project: Project, cluster: str | ClusterAddress) -> ClusterUse:
        from phipack.api.clusters import ClusterUse

        return ClusterUse(project, self.store, self.home, _as_cluster(cluster))

    def finish(
        self,
        project: AnyPath | Project,
        *,
        checkpoint_digest: str | None = None,
        on_progress: Progress | None = None,
    ) -> ReleaseReport:
        """Register what machines have built and measured: all cells where all pass, otherwise none.

        The checkpoint's files need not be here, given its digest. Needs `phipack[build,registry]`.

        Returns:
            What became of each cell. One whose jobs are not done has a problem that names them.

        Raises:
            CheckpointError: the checkpoint can't be read, has another digest, or no job has recorded it.
        """
        from phipack.api.releasing import finish

        opened = as_project(project)
        return finish(opened, self._ledger, self.home, checkpoint_digest, on_progress or self._on_progress)


def _as_cluster(given: str | ClusterAddress) -> ClusterAddress:
    from builders.matrix.cluster.address import parse_cluster

    return parse_cluster(given) if isinstance(given, str) else given
