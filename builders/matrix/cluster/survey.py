"""What a cluster has, and which jobs nobody there can do. Nothing is submitted."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from builders.matrix.cluster.address import ClusterAddress
from builders.matrix.cluster.connection import connected, dashboard
from builders.matrix.cluster.course import Limits, SchedulerLostError
from builders.matrix.cluster.machine import Machine
from builders.matrix.cluster.needs import resources_of, somebody_can, why_nobody
from builders.matrix.cluster.roster import Roster
from builders.matrix.cluster.task import Work
from builders.matrix.graph import Job
from targets.errors import ClusterUnreachableError
from targets.installation import requirements


@dataclass(frozen=True)
class Survey:
    """A cluster as it is now.

    Attributes:
        scheduler: its address.
        dashboard: dask's page on it, None where the scheduler has none.
        machines: the workers that can be used.
        refused: why others can't be used.
        unable: jobs that nobody can do, each with what is missing.
    """

    scheduler: str
    dashboard: str | None
    machines: tuple[Machine, ...]
    refused: tuple[str, ...]
    unable: tuple[tuple[Job, str], ...]


def survey(
    where: ClusterAddress, jobs: Sequence[Job] = (), work: Work | None = None, *, limits: Limits | None = None
) -> Survey:
    """Ask every worker what it has. `jobs`, with their `work`: those that somebody should be able to do.

    Raises:
        ClusterError, ClusterUnreachableError: as `run_graph` raises.
    """
    return asyncio.run(survey_async(where, jobs, work, limits=limits))


async def survey_async(
    where: ClusterAddress, jobs: Sequence[Job] = (), work: Work | None = None, *, limits: Limits | None = None
) -> Survey:
    """Do what `survey` does, in a loop that runs already."""
    limits = limits or Limits()
    packages = {job.name: {} if work is None else work.packages(job) for job in jobs}
    asked = {name for one in packages.values() for name in one}
    asked |= {one.package for one in requirements() if one.extra == "build"}
    async with connected(where, seconds=limits.wait_seconds) as client:
        roster = Roster(client, tuple(sorted(asked)), limits)
        try:
            await roster.first()
        except SchedulerLostError as error:
            raise ClusterUnreachableError(
                f"{where.text}: the scheduler was lost: {error}", fix="run the same command again"
            ) from error
        workers = list(roster.workers.values())
        unable = []
        for job in jobs:
            needed = resources_of(job, packages[job.name], roster.identity)
            if not somebody_can(needed, workers):
                unable.append((job, why_nobody(needed, workers)))
        machines = tuple(sorted(roster.machines.values(), key=lambda one: (one.host, one.address)))
        refused = tuple(sorted(roster.refused.values()))
        return Survey(client.scheduler.address, dashboard(client), machines, refused, tuple(unable))
