"""Reports of jobs: what `Registry.plan`, `Registry.matrix` and `Registry.run_jobs` return."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from builders.matrix.graph import Job
from builders.matrix.grouping import Group
from phipack.api.results import ReleaseReport
from targets.errors import PhipackError, ReleaseError


@dataclass(frozen=True)
class JobPlan:
    """The jobs of a release.

    Attributes:
        release: its cells, as a dry run reports them: what is known to fail has no jobs.
        checkpoint: digest of the checkpoint, which `release --finish` takes where the files are not.
        jobs: all jobs, each after those that it needs; `is_done` for those that any machine has recorded.
    """

    release: ReleaseReport
    checkpoint: str
    jobs: tuple[Job, ...]

    @property
    def pending(self) -> tuple[Job, ...]:
        """The jobs that would run."""
        return tuple(job for job in self.jobs if not job.is_done)

    def raise_for_failures(self) -> None:
        """Raise as `ReleaseReport.raise_for_failures`, where a cell is known to fail whatever is built."""
        self.release.raise_for_failures()


@dataclass(frozen=True)
class Matrix:
    """The pending jobs of a plan in groups, one for each job of a CI. `groups`: empty where all is done."""

    plan: JobPlan
    groups: tuple[Group, ...]


@dataclass(frozen=True)
class JobOutcome:
    """What became of a job. `done`: True where it was done now, False where any machine had recorded it."""

    job: Job
    done: bool
    problem: PhipackError | None = None


@dataclass(frozen=True)
class JobsReport:
    """Jobs that were done on this machine, for a release that `Registry.finish` registers."""

    model: str
    version: str
    checkpoint: str
    outcomes: Sequence[JobOutcome]

    def raise_for_failures(self) -> None:
        """Raise the one problem, or `ReleaseError` where several jobs failed."""
        failed = [outcome for outcome in self.outcomes if outcome.problem is not None]
        if len(failed) == 1 and failed[0].problem is not None:
            raise failed[0].problem
        if failed:
            names = ", ".join(outcome.job.name for outcome in failed)
            problem = f"{self.model} {self.version}: {len(failed)} of {len(self.outcomes)} jobs failed: {names}"
            fix = "fix what each reports, then run the same command again: the other jobs are recorded"
            raise ReleaseError(problem, fix=fix)
