"""A job's way through the cluster: where it runs, what it was tried on, and the limits on that."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from builders.matrix.graph import Job
from targets.errors import ClusterError

AGAIN = "run the same command again: what is recorded is not done again"


@dataclass(frozen=True)
class Limits:
    """How long and how often something is tried before it is an error.

    Attributes:
        attempts: of a job that fails for its machine's reasons.
        deaths: of workers while they do one job.
        hangs: of one job.
        silent_seconds, silent_factor: a job hangs that reports no progress for so long, and for so many times its
            estimated seconds.
        wait_seconds: for a scheduler, and for a machine that can do a job.
        scheduler_losses: connections to the scheduler that may be lost.
        tick_seconds: between two looks at the cluster.
        call_seconds: for a worker or the scheduler to answer.
    """

    attempts: int = 3
    deaths: int = 3
    hangs: int = 2
    silent_seconds: float = 900.0
    silent_factor: float = 10.0
    wait_seconds: float = 60.0
    scheduler_losses: int = 3
    tick_seconds: float = 2.0
    call_seconds: float = 30.0

    def silence_of(self, job: Job) -> float:
        """Return after how many seconds without progress a job hangs."""
        return max(self.silent_seconds, self.silent_factor * job.needs.seconds)


class SchedulerLostError(Exception):
    """The connection to the scheduler is lost, and with it all tasks."""


@dataclass
class Running:
    """Where a job runs: its worker's address, the machine's name for messages, and when it was last heard of."""

    address: str
    machine: str
    heard: float


@dataclass
class Course:
    """A job's way through the cluster.

    Attributes:
        needed: resources that it takes.
        key: of its first task; later ones have a number after it.
        future: dask's, of its last task; None until it is submitted.
        tries: how often it was submitted.
        failures: `machine: problem` of each try that raised.
        deaths: machines whose worker died while it ran there.
        hangs: machines where it hung.
        running: where it runs now.
        last: where it ran last.
        verdict: why it was given up while its task waited or ran.
        unable_since: since when nobody can do it.
        is_moved: whether its task was cancelled only to be submitted again.
    """

    job: Job
    needed: dict[str, float]
    key: str
    future: Any = None
    tries: int = 0
    failures: list[str] = field(default_factory=list)
    deaths: list[str] = field(default_factory=list)
    hangs: list[str] = field(default_factory=list)
    running: Running | None = None
    last: Running | None = None
    verdict: ClusterError | None = None
    unable_since: float | None = None
    is_moved: bool = False

    @property
    def is_waiting(self) -> bool:
        """Whether its task is submitted and does not run yet."""
        return self.future is not None and self.future.status == "pending" and self.running is None

    def started(self, running: Running) -> None:
        """Note where it runs."""
        self.running = self.last = running

    def ended(self) -> None:
        """Note that it runs no more."""
        self.running = None

    def failed(self, machine: str, problem: str, fix: str) -> ClusterError:
        """Return the error of a job that another try would not change."""
        before = [one for one in self.failures if one != f"{machine}: {problem}"]
        earlier = f"; earlier: {'; '.join(before)}" if before else ""
        return ClusterError(f"{self.job.name} failed on {machine}: {problem}{earlier}", fix=fix)

    def died(self) -> ClusterError:
        """Return the error of a job that workers do not survive."""
        return ClusterError(
            f"{self.job.name}: {len(self.deaths)} workers died while they did it: {', '.join(self.deaths)}",
            fix=f"look at the workers' logs and the machines' memory, then {AGAIN}",
        )

    def hung(self, seconds: float) -> ClusterError:
        """Return the error of a job that does not move on."""
        return ClusterError(
            f"{self.job.name} made no progress for {seconds:.0f} s on each of {', '.join(self.hangs)}",
            fix=f"look at the workers' logs, then {AGAIN}",
        )
