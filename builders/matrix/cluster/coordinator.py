"""Has a graph's jobs done by a cluster: submits each when those before it are done, and looks at what became of it.

A job is done when the store has its record: whatever a worker answers, the coordinator looks there. A job that failed
for its machine's reasons is tried elsewhere, a few times; one that failed for its own reasons is not. A scheduler that
is lost is connected to again, and what is missing by then is submitted again.
"""

from __future__ import annotations

import asyncio
import hashlib
import pickle
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from distributed import wait
from distributed.client import FuturesCancelledError
from distributed.scheduler import KilledWorker

from builders.matrix.cluster.address import ClusterAddress
from builders.matrix.cluster.connection import connected, dashboard
from builders.matrix.cluster.course import AGAIN, Course, Limits, Running, SchedulerLostError
from builders.matrix.cluster.machine import DISK, MEMORY, own_identity, withdraw
from builders.matrix.cluster.needs import resources_of
from builders.matrix.cluster.roster import Roster
from builders.matrix.cluster.task import TOPIC, JobError, Task, Work, perform
from builders.matrix.cluster.warmth import hold_checkpoint_read
from builders.matrix.cluster.watch import Watch
from builders.matrix.graph import Graph, Job
from targets.errors import ClusterError, ClusterUnreachableError, PhipackError
from targets.progress import WAIT, Notice, Progress, Step, Unit, phase, silent


@dataclass(frozen=True)
class JobOutcome:
    """What became of a job. `problem` is None where the store has its record.

    `tries`: how often it was submitted; 0 where it was done before, or a job before it failed.
    """

    job: Job
    problem: PhipackError | None = None
    tries: int = 0


def run_graph(
    graph: Graph,
    work: Work,
    where: ClusterAddress,
    *,
    limits: Limits | None = None,
    on_progress: Progress = silent,
) -> tuple[JobOutcome, ...]:
    """Do the jobs that are not done, and return what became of each, in the graph's order.

    An interrupt cancels the tasks: a running job ends at its next step, and what is recorded stays.

    Raises:
        ClusterError: the cluster is refused: it is not encrypted, or none of its workers has this phipack.
        ClusterUnreachableError: there is no scheduler, or it was lost too often.
    """
    with phase(on_progress, WAIT):  # the work is the workers'
        return asyncio.run(run_graph_async(graph, work, where, limits=limits, on_progress=on_progress))


async def run_graph_async(
    graph: Graph,
    work: Work,
    where: ClusterAddress,
    *,
    limits: Limits | None = None,
    on_progress: Progress = silent,
) -> tuple[JobOutcome, ...]:
    """Do what `run_graph` does, in a loop that runs already."""
    limits = limits or Limits()
    outcomes = {job.name: JobOutcome(job) for job in graph if job.is_done}
    for _ in range(limits.scheduler_losses + 1):
        try:
            async with connected(where, seconds=limits.wait_seconds) as client:
                await _Round(client, graph, work, _Listener(outcomes, limits, on_progress)).run()
            return tuple(outcomes[job.name] for job in graph)
        except SchedulerLostError as error:
            on_progress(Notice(f"the connection to the cluster's scheduler was lost ({error}): connecting again"))
    raise ClusterUnreachableError(
        f"{where.text}: the scheduler was lost {limits.scheduler_losses + 1} times",
        fix=f"look at the scheduler's log, then {AGAIN}",
    )


@dataclass(frozen=True)
class _Listener:
    """What outlives a connection: outcomes by job, limits, and who hears of progress."""

    outcomes: dict[str, JobOutcome]
    limits: Limits
    on_progress: Progress


class _Round:
    """One connection to a scheduler, and the jobs that had no outcome when it was made."""

    def __init__(self, client: Any, graph: Graph, work: Work, listener: _Listener) -> None:
        self.client, self.graph, self.work, self.listener = client, graph, work, listener
        self.identity = own_identity()
        jobs = [job for job in graph if job.name not in listener.outcomes]
        packages = {job.name: work.packages(job) for job in jobs}
        spec = hashlib.sha256(pickle.dumps(work)).hexdigest()[:8]
        self.courses = {
            job.name: Course(job, resources_of(job, packages[job.name], self.identity), f"{job.name}-{spec}")
            for job in jobs
        }
        asked = tuple(sorted({name for one in packages.values() for name in one}))
        self.roster = Roster(client, asked, listener.limits, self.identity)
        self.watch = Watch(self.roster, self.courses, listener.limits, listener.on_progress)
        self.done = sum(one.problem is None for one in listener.outcomes.values())
        self.followers: dict[str, asyncio.Task[JobOutcome]] = {}
        self.by_key: dict[str, Course] = {}
        self.checkpoint_read: Any = None  # dask's future; None leaves it to dask where jobs are done

    async def run(self) -> None:
        """Follow every job without an outcome to its outcome. Raises `SchedulerLostError`, `ClusterError`."""
        await self.roster.first()
        self._refuse_strangers()
        self._introduce()
        digest, seconds = self.work.checkpoint_digest, self.listener.limits.call_seconds
        self.checkpoint_read = await hold_checkpoint_read(self.client, digest, self.roster.machines, seconds)
        self.client.subscribe_topic(TOPIC, self._on_event)
        try:
            await self._follow_all()
        finally:
            await self._cancel(self.courses.values())

    def _refuse_strangers(self) -> None:
        if self.roster.refused:
            raise ClusterError(
                f"{'; '.join(sorted(self.roster.refused.values()))}; here is {self.identity}",
                fix="install the same phipack and Python on every worker, and start the workers again",
            )

    def _introduce(self) -> None:
        link = dashboard(self.client)
        count = len(self.roster.machines)
        workers = f"{count} worker{'' if count == 1 else 's'}"
        text = f"cluster {self.client.scheduler.address}: {workers}{f'; dashboard: {link}' if link else ''}"
        self.listener.on_progress(Notice(text))

    async def _follow_all(self) -> None:
        self._report()
        try:
            async with asyncio.TaskGroup() as group:
                watching = group.create_task(self.watch.forever())
                for name, course in self.courses.items():
                    self.followers[name] = group.create_task(self._follow(course))
                await asyncio.gather(*self.followers.values())
                self.watch.is_over = True
                watching.cancel()
        except ExceptionGroup as group:  # of one follower's error, as others end by it
            raise group.exceptions[0] from group

    async def _follow(self, course: Course) -> JobOutcome:
        """Wait for the jobs before this one, then have it done."""
        outcome = await self._failed_before(course.job)
        if outcome is None:
            problem = await self._have_done(course)
            outcome = JobOutcome(course.job, problem, course.tries)
        self.listener.outcomes[course.job.name] = outcome
        self.done += outcome.problem is None
        course.ended()
        self._report()
        return outcome

    async def _failed_before(self, job: Job) -> JobOutcome | None:
        for name in job.after:
            before = self.listener.outcomes.get(name) or await self.followers[name]
            if before.problem is not None:
                problem = f"{job.name} was not done: {name}, which it needs, failed: {before.problem.problem}"
                return JobOutcome(job, ClusterError(problem, fix=before.problem.fix))
        return None

    async def _have_done(self, course: Course) -> PhipackError | None:
        """Submit a job until the store has its record; return why it has none."""
        while not await asyncio.to_thread(self.work.is_done, course.job):
            self._submit(course)
            exception = await self._ended(course)
            if course.verdict is not None:
                return course.verdict
            if exception is None:
                is_done = await asyncio.to_thread(self.work.is_done, course.job)
                return None if is_done else self._without_record(course)
            if (problem := await self._judge(course, exception)) is not None:
                return problem
            course.ended()
        return None

    def _submit(self, course: Course) -> None:
        course.tries += 1
        key = course.key if course.tries == 1 else f"{course.key}-{course.tries}"
        near = [self.courses[name].future for name in course.job.after if name in self.courses]
        near.append(self.checkpoint_read)
        self.by_key[key] = course
        course.future = self.client.submit(
            perform,
            Task(course.job, self.work, course.needed),
            *(future for future in near if future is not None and future.status == "finished"),
            key=key,
            resources=course.needed,
            pure=False,
        )

    async def _ended(self, course: Course) -> BaseException | None:
        """Wait for a job's task; return what it raised. Raises `SchedulerLostError`."""
        future = course.future
        try:
            await wait([future])
        except FuturesCancelledError as error:
            if course.verdict is None and not course.is_moved:
                raise SchedulerLostError("the tasks were cancelled") from error
            return error
        if future.status == "error":
            exception: BaseException = await future.exception()
            return exception
        return None

    async def _judge(self, course: Course, exception: BaseException) -> PhipackError | None:
        """Return the error that a job ends with, or None where it is tried again."""
        if course.is_moved:
            course.is_moved = False
            return None
        if isinstance(exception, KilledWorker):
            # dask counts deaths for every task that waited on such a worker; the watch, for those that ran there.
            died_here = course.running is not None and course.running.address == exception.last_worker.address
            return self.watch.note_death(course) if died_here else None
        failed = _as_job_error(exception, course)
        course.failures.append(f"{failed.machine}: {failed.problem}")
        if failed.fault == "job" or len(course.failures) >= self.listener.limits.attempts:
            return course.failed(failed.machine, failed.problem, failed.fix)
        self.listener.on_progress(Notice(f"{course.job.name}: {course.failures[-1]}: it is tried again"))
        await self._withdraw(course, failed.fault)
        return None

    async def _withdraw(self, course: Course, fault: str) -> None:
        """Keep what needs as much from the machine that could not do a job, where that is the machine's fault."""
        resource = {"disk": DISK, "memory": MEMORY, "machine": self.identity.resource}.get(fault)
        if resource is None or course.last is None:
            return
        least = course.needed.setdefault(resource, 1.0)
        await self.roster.ask(course.last.address, withdraw, resource=resource, most=max(0.0, least - 1))

    async def _cancel(self, courses: Iterable[Course]) -> None:
        """Have the scheduler drop what is not done: a job that runs ends at its next step."""
        futures = [course.future for course in courses if course.future is not None]
        if futures and self.client.status == "running":
            await self.client.cancel(futures, reason="phipack", msg="the release ended")

    def _without_record(self, course: Course) -> ClusterError:
        where = "a worker" if course.last is None else course.last.machine
        return ClusterError(
            f"{course.job.name} ended on {where}, but the store has no record of it",
            fix=f"check that every worker reaches the same store, then {AGAIN}",
        )

    def _report(self) -> None:
        self.listener.on_progress(Step("jobs", self.done, len(self.graph.jobs), "jobs"))

    def _on_event(self, event: tuple[float, dict[str, Any]]) -> None:
        """Receive what a task sends while it runs."""
        message = event[1]
        course = self.by_key.get(message["key"])
        if course is None or course.future.key != message["key"] or course.future.status != "pending":
            return  # another release's, or an earlier try's
        course.started(Running(message["address"], f"{message['host']} ({message['address']})", time.monotonic()))
        subject = f"{course.job.name} on {message['host']}"
        if message["event"] == "notice":
            self.listener.on_progress(Notice(f"{subject}: {message['text']}"))
        elif message["event"] == "step":
            unit: Unit = message["unit"]
            self.listener.on_progress(Step(message["name"], message["done"], message["total"], unit, subject))


def _as_job_error(exception: BaseException, course: Course) -> JobError:
    """Return what a task raised; what dask itself raises becomes one that another try may change."""
    if isinstance(exception, JobError):
        return exception
    machine = "a worker" if course.last is None else course.last.machine
    return JobError(course.job.name, machine, f"{type(exception).__name__}: {exception}", AGAIN, "passing")
