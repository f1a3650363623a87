"""Which tasks the watch submits again, by what the scheduler says of them; a real scheduler never says all of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest

from builders.matrix.cluster.course import Course, Limits
from builders.matrix.cluster.needs import WorkerResources
from builders.matrix.cluster.roster import Roster
from builders.matrix.cluster.watch import Watch
from devtools.stub_jobs import one
from targets.progress import silent


@dataclass
class Scheduler:
    """Answers what state a task has."""

    state: str

    async def get_task_status(self, keys: Iterable[str]) -> dict[str, str]:
        return dict.fromkeys(keys, self.state)

    async def processing(self, workers: None) -> dict[str, list[str]]:
        """Name no task: none is on a worker."""
        assert workers is None
        return {"worker": []}


@dataclass
class Client:
    scheduler: Scheduler


@dataclass
class Future:
    """A task that the client takes for one that waits."""

    key: str = "task"
    status: str = "pending"
    cancelled: list[str] = field(default_factory=list)

    async def cancel(self, reason: str, msg: str) -> None:
        self.cancelled.append(f"{reason}: {msg}")


@pytest.mark.parametrize(
    ("state", "cancelled"),
    [("no-worker", ["phipack: submitted again"]), ("memory", []), ("processing", []), ("queued", [])],
)
def test_only_what_the_scheduler_can_not_place_is_submitted_again(state: str, cancelled: list[str]) -> None:
    """A task that has ended still waits for a client that is too busy to hear of it: thousands do at a time."""
    (job,) = one("stub")
    course, limits = Course(job, {}, "task", future=Future()), Limits()
    roster = Roster(Client(Scheduler(state)), (), limits, workers={"worker": WorkerResources("worker", {})})
    watch = Watch(roster, {job.name: course}, limits, silent)

    async def looks() -> None:
        for _ in range(2):
            await watch._move_unplaced()

    asyncio.run(looks())
    assert course.future.cancelled == cancelled
