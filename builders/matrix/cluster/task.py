"""What runs on a worker: one job, with its progress sent as dask's events.

A job that fails raises `JobError`, which says whose fault it is: the job's own, which no other machine changes, or
this machine's, so that the coordinator has it done elsewhere.
"""

from __future__ import annotations

import errno
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from distributed import Reschedule, get_worker

from builders.matrix.cluster.machine import state_of, work_folder
from builders.matrix.cluster.warmth import CheckpointRead
from builders.matrix.graph import Job
from targets.errors import UNREACHABLE_EXIT_CODE, ClusterError, PhipackError, SetupError
from targets.progress import Event, Notice, Phase, Progress

TOPIC = "phipack"  # of dask's events: one for all releases, since a scheduler keeps a topic's last events for good
_REPORT_SECONDS = 1.0
_UNWANTED = ("cancelled", "forgotten", "released")  # states of a task that nobody waits for any more
_FULL = (errno.ENOSPC, errno.EDQUOT)

Fault = Literal["job", "disk", "memory", "machine", "passing"]


class Work(Protocol):
    """What does jobs; it is pickled with each task, so it holds paths and settings, not what they stand for."""

    @property
    def checkpoint_digest(self) -> str:
        """The checkpoint that the jobs read."""
        ...

    def packages(self, job: Job) -> Mapping[str, str]:
        """Return the packages that a job's result depends on, with the versions that it was planned with."""
        ...

    def is_done(self, job: Job) -> bool:
        """Return whether the store has the job's record, and what it names. Asked on the coordinator, from a thread."""
        ...

    def run(self, job: Job, place: Place) -> None:
        """Do a job on this machine, and record it in the store; nothing where it is recorded."""
        ...


@dataclass(frozen=True)
class Place:
    """Where a job runs: a folder that outlives it, digests of checkpoints that are verified here, who hears of it."""

    folder: Path
    checkpoints: set[str]
    on_progress: Progress


class UnfitMachineError(ClusterError):
    """The machine can do no job of this release: the checkpoint is not there, or another one is."""


class StoppedError(Exception):
    """The task was cancelled while it ran. Nobody waits for its result."""


class JobError(Exception):
    """A job failed on a machine. All is in `args`, which is what pickle keeps."""

    def __init__(self, job: str, machine: str, problem: str, fix: str, fault: Fault) -> None:
        super().__init__(job, machine, problem, fix, fault)
        self.job, self.machine, self.problem, self.fix, self.fault = job, machine, problem, fix, fault


@dataclass(frozen=True)
class Task:
    """A job as it is sent. `needed`: resources that it takes."""

    job: Job
    work: Work
    needed: Mapping[str, float]


def perform(task: Task, *_near: CheckpointRead | None) -> None:
    """Do a job on this worker.

    `_near`: results that dask prefers to have near: of the jobs before it, and the checkpoint's (warmth.py).

    Raises:
        Reschedule: this worker has withdrawn what the job needs since the task was sent here.
        JobError: it failed.
    """
    worker = get_worker()
    withdrawn = state_of(worker).withdrawn
    if any(task.needed.get(name, 0.0) > most for name, most in withdrawn.items()):
        raise Reschedule
    reporter = _Reporter(worker, task.job.name, worker.get_current_task())
    reporter.send("started", {})
    folder = work_folder(worker)
    try:
        task.work.run(task.job, Place(folder, state_of(worker).checkpoints, reporter.on_progress))
    except (StoppedError, Reschedule):
        raise
    except Exception as error:
        raise _as_job_error(error, task.job.name, f"{socket.gethostname()} ({worker.address})") from error


class _Reporter:
    """Sends a job's progress: where a step starts or ends, and once a second."""

    def __init__(self, worker: Any, job: str, key: str) -> None:
        self._worker, self._job, self._key = worker, job, key
        self._lock = threading.Lock()
        self._sent: dict[tuple[str, str], float] = {}

    def on_progress(self, event: Event) -> None:
        """Send a step or a notice. Raises `StoppedError` where the task is no longer wanted, which ends the work."""
        if isinstance(event, Phase):
            return
        task = self._worker.state.tasks.get(self._key)
        if task is None or task.state in _UNWANTED:
            raise StoppedError(f"{self._job} is no longer wanted")
        if isinstance(event, Notice):
            self.send("notice", {"text": event.text})
        elif self._is_due((event.subject, event.name), ends=0 < event.total <= event.done):
            self.send("step", asdict(event))

    def send(self, what: str, content: dict[str, Any]) -> None:
        """Send one event of this task."""
        message = {"key": self._key, "address": self._worker.address, "host": socket.gethostname(), "event": what}
        self._worker.log_event(TOPIC, message | content)

    def _is_due(self, step: tuple[str, str], *, ends: bool) -> bool:
        now = time.monotonic()
        with self._lock:
            last = self._sent.get(step)
            if last is not None and not ends and now - last < _REPORT_SECONDS:
                return False
            self._sent[step] = now
        return True


def _as_job_error(error: Exception, job: str, machine: str) -> JobError:
    if isinstance(error, PhipackError):
        return JobError(job, machine, error.problem, error.fix, _fault(error))
    problem = f"{type(error).__name__}: {error}"
    return JobError(
        job, machine, problem, "see the worker's log; phipack doctor there shows what is missing", _fault(error)
    )


def _fault(error: Exception) -> Fault:
    """Return whose fault an error is, by what it was raised from."""
    for one in _chain(error):
        if isinstance(one, OSError) and one.errno in _FULL:
            return "disk"
        if isinstance(one, MemoryError):
            return "memory"
        if isinstance(one, UnfitMachineError | SetupError):
            return "machine"
    if isinstance(error, PhipackError):
        return "passing" if error.exit_code == UNREACHABLE_EXIT_CODE else "job"
    return "passing"


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__
