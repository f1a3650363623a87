"""Sees what nobody reports: workers that die or hang while they do a job, and jobs that no machine can do."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from builders.matrix.cluster.course import Course, Limits
from builders.matrix.cluster.needs import somebody_can, why_nobody
from builders.matrix.cluster.roster import Roster
from targets.errors import ClusterError
from targets.progress import Notice, Progress

_LOOKS = 15  # at the cluster, from one at unplaced tasks to the next


@dataclass
class Watch:
    """Looks at the cluster every few seconds, as long as jobs are followed."""

    roster: Roster
    courses: Mapping[str, Course]
    limits: Limits
    on_progress: Progress
    is_over: bool = False  # set with the cancellation of `forever`, which a call of dask's may swallow
    _unplaced: Collection[str] = ()

    async def forever(self) -> None:
        """Look again and again. Raises `SchedulerLostError` where the scheduler stops answering."""
        for tick in itertools.count():
            if self.is_over:
                return
            refused = set(self.roster.refused)
            await self.roster.refresh()
            for address in self.roster.refused.keys() - refused:
                self.on_progress(Notice(f"a worker joined that is not used: {self.roster.refused[address]}"))
            for course in self.courses.values():
                if course.running is not None:
                    await self._look_at(course)
                elif course.is_waiting:
                    await self._look_for_machines(course)
            if self.roster.has_changed or tick % _LOOKS == _LOOKS - 1:
                await self._move_unplaced()
            await asyncio.sleep(self.limits.tick_seconds)

    def note_death(self, course: Course) -> ClusterError | None:
        """Count the death of the worker that did a job; return the job's error where there were too many."""
        running = course.running
        if running is None:  # it waited there, and did not run
            return None
        course.ended()
        course.deaths.append(running.machine)
        self.on_progress(Notice(f"{course.job.name}: its worker on {running.machine} died: it is done elsewhere"))
        return course.died() if len(course.deaths) >= self.limits.deaths else None

    async def _look_at(self, course: Course) -> None:
        running = course.running
        assert running is not None
        if running.address not in self.roster.workers:
            if (error := self.note_death(course)) is not None:
                await give_up(course, error)
            return
        seconds = self.limits.silence_of(course.job)
        if time.monotonic() - running.heard > seconds:
            await self._end_hung(course, seconds)

    async def _end_hung(self, course: Course, seconds: float) -> None:
        """End the worker of a job that does not move on: dask places its tasks elsewhere."""
        running = course.running
        assert running is not None
        course.ended()
        course.hangs.append(running.machine)
        self.on_progress(
            Notice(f"{course.job.name}: no progress on {running.machine} for {seconds:.0f} s: its worker is ended")
        )
        if len(course.hangs) >= self.limits.hangs:
            await give_up(course, course.hung(seconds))
        await self.roster.restart(running.address)

    async def _look_for_machines(self, course: Course) -> None:
        """Abandon a job that nobody was able to do for too long: dask itself would wait for ever."""
        workers = list(self.roster.workers.values())
        if somebody_can(course.needed, workers):
            course.unable_since = None
            return
        now = time.monotonic()
        if course.unable_since is None:
            course.unable_since = now
            self.on_progress(Notice(f"{course.job.name} waits for a machine: {why_nobody(course.needed, workers)}"))
        elif now - course.unable_since > self.limits.wait_seconds:
            await give_up(course, unable(course, workers))

    async def _move_unplaced(self) -> None:
        """Submit again what dask has placed nowhere at two looks, though a worker has offered what it needs.

        dask looks at such tasks again when a worker joins, and not when one offers resources, which ours do after it.
        """
        workers = list(self.roster.workers.values())
        waiting = {
            course.future.key: course
            for course in self.courses.values()
            if course.is_waiting and somebody_can(course.needed, workers)
        }
        # The scheduler's word: a task that has ended waits here, too, until this client has heard of it.
        unplaced = {key: waiting[key] for key in await self.roster.unplaced(waiting)} if waiting else {}
        for key in unplaced.keys() & set(self._unplaced):
            course = unplaced.pop(key)
            if course.future.key == key and course.is_waiting:
                course.is_moved = True
                await course.future.cancel(reason="phipack", msg="submitted again")
        self._unplaced = unplaced.keys()
        self.roster.has_changed = bool(unplaced)  # look again at the next tick


def unable(course: Course, workers: list[Any]) -> ClusterError:
    """Return the error of a job that no worker can do."""
    ends = [*course.failures, *(f"{machine}: its worker died" for machine in course.deaths)]
    tried = f"; it was tried: {'; '.join(ends)}" if ends else ""
    return ClusterError(
        f"{course.job.name} can be done by nobody: {why_nobody(course.needed, workers)}{tried}",
        fix="start a worker that has it (docs/cluster.md); phipack workers shows what is there",
    )


async def give_up(course: Course, error: ClusterError) -> None:
    """End a job that waits or runs, with an error."""
    course.verdict = error
    await course.future.cancel(reason="phipack", msg=error.problem)
