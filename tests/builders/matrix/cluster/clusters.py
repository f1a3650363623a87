"""dask clusters inside this process: a scheduler, and workers of one thread each."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import dask
from distributed import Scheduler, Worker

from builders.matrix.cluster.address import ClusterAddress, parse_cluster
from builders.matrix.cluster.coordinator import JobOutcome, run_graph_async
from builders.matrix.cluster.course import Limits
from builders.matrix.graph import Graph
from devtools.stub_jobs import HANGING, StubWork
from targets.progress import Event, silent

QUICK = Limits(silent_seconds=1.0, wait_seconds=1.0, tick_seconds=0.1, call_seconds=30.0)
Result = TypeVar("Result")


@asynccontextmanager
async def running(folder: Path, *offers: Mapping[str, float], **scheduler: Any) -> AsyncIterator[tuple[Any, list[Any]]]:
    """Run a scheduler and a worker for each offer of resources; each has a scratch folder of its own."""
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    settings = {"distributed.admin.system-monitor.gil.enabled": False, "distributed.worker.profile.enabled": False}
    async with AsyncExitStack() as stack:
        stack.enter_context(dask.config.set(settings))
        options = {"protocol": "inproc", "dashboard": False, "dashboard_address": "127.0.0.1:0", **scheduler}
        head = await stack.enter_async_context(Scheduler(**options))
        workers = []
        for number, offer in enumerate(offers):
            workers.append(await stack.enter_async_context(worker(head, folder, str(number), offer)))
        HANGING.clear()
        stack.callback(HANGING.set)  # before the workers are closed
        yield head, workers


def worker(head: Any, folder: Path, name: str, offer: Mapping[str, float] | None = None) -> Any:
    """Return a worker that is not started yet."""
    return Worker(
        head.address,
        name=name,
        nthreads=1,
        resources=dict(offer or {}),
        local_directory=str(folder / f"machine-{name}"),
        dashboard=False,
        dashboard_address="127.0.0.1:0",
        memory_limit=0,
    )


def work_in(folder: Path, **settings: Any) -> StubWork:
    """Return work with a store and a log in a folder."""
    return StubWork(str(folder / "store"), folder / "log", **settings)


def written(work: StubWork) -> list[str]:
    """Return the jobs whose records were written, in order."""
    lines = [line.split() for line in work.log.read_text().splitlines()] if work.log.exists() else []
    return [job for what, job, *_ in lines if what == "recorded"]


async def release(
    head: Any, graph: Graph, work: StubWork, limits: Limits = QUICK, on_progress: Callable[[Event], None] = silent
) -> dict[str, JobOutcome]:
    """Have a graph done by a running cluster; return outcomes by job."""
    outcomes = await run_graph_async(graph, work, address_of(head), limits=limits, on_progress=on_progress)
    return {outcome.job.name: outcome for outcome in outcomes}


def address_of(head: Any) -> ClusterAddress:
    return parse_cluster(head.address)


async def until(happened: Callable[[], Any]) -> None:
    """Wait for what another task of the loop, or a thread, brings about. A test's bound ends it."""
    while not happened():  # noqa: ASYNC110 - nobody sets an event
        await asyncio.sleep(0.01)


def run(coroutine: Awaitable[Result], seconds: float = 60) -> Result:
    """Run a test's coroutine, with a bound: what hangs fails."""

    async def bounded() -> Result:
        return await asyncio.wait_for(coroutine, seconds)

    return asyncio.run(bounded())
