"""What a dask cluster costs and survives, with jobs that keep records and do nothing else.

    python -m benchmarks.cluster speed [--cells 8] [--seconds 2]         1 against 2 workers of one thread each
    python -m benchmarks.cluster kills [--kills 40]                      workers, scheduler and coordinator killed
    python -m benchmarks.cluster simulation [--cells 10000] [--workers 500]
                                                                         the real scheduler, and a real S3 server

Everything runs on this machine: schedulers, nannies and workers are dask's own, as processes. `simulation` runs its
workers in a few processes, each with a store of its own; requests to the store are counted where boto3 sends them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

import psutil

from builders.matrix.cluster.address import parse_cluster
from builders.matrix.cluster.coordinator import run_graph
from builders.matrix.cluster.course import Limits
from builders.matrix.graph import Graph
from devtools.services.ports import free_ports
from devtools.services.seaweedfs import running_seaweedfs
from devtools.stub_jobs import StubWork, cells, record_name
from registry.store.uris import open_store

LOOPBACK = "127.0.0.1"
BUCKET = "cluster"


def main(arguments: Sequence[str]) -> int:
    """Run one measurement and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "kills", "simulation", "coordinate", "workers"))
    parser.add_argument("--cells", type=int)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--workers", type=int, default=500)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scheduler")
    parser.add_argument("--store")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args(arguments)
    figures = {
        "speed": _speed,
        "kills": _kills,
        "simulation": _simulation,
        "coordinate": _coordinate,
        "workers": _workers,
    }[options.what](options)
    print(json.dumps(figures, indent=2))
    return 0


def _speed(options: argparse.Namespace) -> dict[str, object]:
    """Time the same cells on one worker and on two."""
    graph, seconds = cells(options.cells or 8), options.seconds if options.seconds is not None else 2.0
    took: dict[int, float] = {}
    for workers in (1, 2):
        with _folder() as folder:
            work = StubWork(str(folder / "store"), folder / "log", seconds, burns=True)
            run_graph(graph, work, parse_cluster(f"local:{workers}"))
            times = [float(line.split()[2]) for line in work.log.read_text().splitlines()]
            took[workers] = max(times) - min(times)  # from the first start of a job to the last record
    return {"seconds of one worker": took[1], "seconds of two": took[2], "ratio": took[1] / took[2]}


def _kills(options: argparse.Namespace) -> dict[str, object]:
    """Kill processes at random points of releases until there were so many kills; look at what the store has then."""
    chance, killed, releases = random.Random(options.seed), Counter[str](), 0
    problems: list[str] = []
    while killed.total() < options.kills:
        releases += 1
        with _folder() as folder, _Supervised(folder, chance) as processes:
            graph = cells(options.cells or 8)
            here = min(options.kills - killed.total(), 8)
            for _ in range(here):
                time.sleep(chance.uniform(0.2, 4.0))
                killed[processes.kill(chance.choice(("worker", "worker", "scheduler", "coordinator")))] += 1
            processes.finish()
            problems += _faults_of(graph, StubWork(str(folder / "store"), folder / "log"))
    return {"releases": releases, "killed": dict(killed), "lost, torn or done twice": problems}


def _faults_of(graph: Graph, work: StubWork) -> list[str]:
    """Return what is wrong: a record that is missing or torn, or work that was started after its record was there."""
    store, problems = open_store(work.store), []
    lines = [line.split() for line in work.log.read_text().splitlines()]
    recorded = {name: float(at) for kind, name, at, *_ in lines if kind == "recorded"}
    for job in graph:
        document = store.read_document(record_name(job))
        if document is None:
            problems.append(f"lost: {job.name}")
        elif document.content != job.name.encode():
            problems.append(f"torn: {job.name}: {document.content!r}")
        if sum(line[:2] == ["recorded", job.name] for line in lines) > 1:
            problems.append(f"recorded twice: {job.name}")
    late = [(name, at) for kind, name, at, *_ in lines if kind == "started" and float(at) > recorded.get(name, 1e18)]
    return problems + [f"done twice: {name}" for name, _ in late]


class _Supervised:
    """A scheduler, two workers with nannies and a coordinator, each started again when it ends, as systemd would."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self.folder, self.chance, self.port = folder, chance, free_ports(1)[0]
        self.address = f"tcp://{LOOPBACK}:{self.port}"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        self._start_missing()
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes.values():
            _end(process)

    def kill(self, what: str) -> str:
        """Kill a process of a kind, start what has ended, and return the kind."""
        self._start_missing()
        if what == "worker":
            name = self.chance.choice(("nanny-0", "nanny-1"))
            children = psutil.Process(self.processes[name].pid).children(recursive=True)
            for child in children:  # the worker alone: its nanny starts another
                child.send_signal(signal.SIGKILL)
        else:
            self.processes[what].kill()
            self.processes[what].wait()
        self._start_missing()
        return what

    def finish(self, seconds: float = 300) -> None:
        """Wait until a coordinator has ended well."""
        until = time.monotonic() + seconds
        while self.processes["coordinator"].poll() != 0:
            if time.monotonic() > until:
                raise TimeoutError(f"no release within {seconds} s: {self.folder}")
            self._start_missing()
            time.sleep(0.2)

    def _start_missing(self) -> None:
        scheduler = ["distributed.cli.dask_scheduler", "--host", LOOPBACK, "--port", str(self.port), "--no-dashboard"]
        nanny = [
            "distributed.cli.dask_worker",
            self.address,
            "--nthreads",
            "1",
            "--memory-limit",
            "0",
            "--no-dashboard",
        ]
        self._start("scheduler", scheduler)
        for number in range(2):
            scratch = ["--local-directory", str(self.folder / f"machine-{number}")]
            self._start(f"nanny-{number}", [*nanny, *scratch])
        if self.processes.get("coordinator") is None or self.processes["coordinator"].poll() not in (None, 0):
            coordinate = ["coordinate", "--scheduler", self.address, "--folder", str(self.folder), "--seconds", "0.5"]
            self._start("coordinator", ["benchmarks.cluster", *coordinate])

    def _start(self, name: str, module: list[str]) -> None:
        process = self.processes.get(name)
        if process is not None and process.poll() is None:
            return
        with (self.folder / f"{name}.log").open("ab") as log:
            command = [sys.executable, "-m", *module]
            self.processes[name] = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)


def _coordinate(options: argparse.Namespace) -> dict[str, object]:
    """Have the cells of a folder's release done; fail where a job does."""
    store = options.store or str(options.folder / "store")
    work = StubWork(store, options.folder / "log", options.seconds or 0.0)
    limits = Limits(tick_seconds=0.5, deaths=50, attempts=50, scheduler_losses=50, wait_seconds=120)
    started = time.monotonic()
    outcomes = run_graph(cells(options.cells or 8), work, parse_cluster(options.scheduler), limits=limits)
    problems = [str(one.problem) for one in outcomes if one.problem is not None]
    if problems:
        raise SystemExit("\n".join(problems))
    seconds = time.monotonic() - started
    return {"jobs": len(outcomes), "seconds": seconds, "processor": time.process_time(), "requests": _requests()}


def _simulation(options: argparse.Namespace) -> dict[str, object]:
    """Do many cells on many workers; measure the scheduler's memory, the overhead of a task, and requests."""
    count = options.cells or 10_000
    with ExitStack() as stack:
        folder = stack.enter_context(_folder())
        server = stack.enter_context(running_seaweedfs(folder / "s3"))
        server.make_bucket(BUCKET)
        environment = dict(os.environ) | dict(server.environment) | {"COUNT_REQUESTS": str(folder)}
        address = f"tcp://{LOOPBACK}:{free_ports(1)[0]}"
        common = ["--scheduler", address, "--folder", str(folder), "--store", f"s3://{BUCKET}/store"]
        port = address.rpartition(":")[2]
        scheduler = stack.enter_context(
            _process("distributed.cli.dask_scheduler", ["--host", LOOPBACK, "--port", port, "--no-dashboard"])
        )
        before = psutil.Process(scheduler.pid)
        each = -(-options.workers // options.processes)
        for _ in range(options.processes):
            stack.enter_context(
                _process("benchmarks.cluster", ["workers", "--workers", str(each), *common], environment)
            )
        _wait_for(folder, options.processes)
        idle_bytes, idle_seconds = before.memory_info().rss, sum(before.cpu_times()[:2])
        coordinator = stack.enter_context(
            _process("benchmarks.cluster", ["coordinate", "--cells", str(count), *common], environment, output=True)
        )
        peak = idle_bytes
        while coordinator.poll() is None:
            peak = max(peak, before.memory_info().rss)
            time.sleep(1)
        assert coordinator.stdout is not None
        done = json.loads(coordinator.stdout.read())
        used = sum(before.cpu_times()[:2]) - idle_seconds
        requests = Counter[str](done["requests"])
        for path in folder.glob("requests-*.json"):
            requests.update(json.loads(path.read_text()))
    return {
        "cells": count,
        "jobs": done["jobs"],
        "workers": each * options.processes,
        "seconds": done["seconds"],
        "milliseconds a job": 1000 * done["seconds"] / done["jobs"],
        "coordinator milliseconds of processor a job": 1000 * done["processor"] / done["jobs"],
        "scheduler milliseconds of processor a job": 1000 * used / done["jobs"],
        "scheduler MB with idle workers": idle_bytes / 1e6,
        "scheduler MB at its peak": peak / 1e6,
        "requests": dict(requests),
        "requests a job": requests.total() / done["jobs"],
    }


def _workers(options: argparse.Namespace) -> dict[str, object]:
    """Run many workers in this process, until it is ended."""
    import dask
    from distributed import Worker

    settings = {"distributed.worker.profile.enabled": False, "distributed.admin.system-monitor.gil.enabled": False}
    settings |= {"distributed.admin.system-monitor.interval": "10s"}

    async def serve() -> None:
        async with _all_of(Worker, options):
            (options.folder / f"ready-{os.getpid()}").touch()
            while True:
                await asyncio.sleep(1)
                path = options.folder / f"requests-{os.getpid()}.json"
                path.with_suffix(".new").write_text(json.dumps(_requests()))
                path.with_suffix(".new").replace(path)

    with dask.config.set(settings):
        asyncio.run(serve())
    return {}


def _all_of(worker: type, options: argparse.Namespace):  # noqa: ANN202 - an asynchronous stack
    from contextlib import AsyncExitStack, asynccontextmanager

    @asynccontextmanager
    async def entered():  # noqa: ANN202
        async with AsyncExitStack() as stack:
            for number in range(options.workers):
                one = worker(
                    options.scheduler,
                    nthreads=1,
                    memory_limit=0,
                    dashboard=False,
                    dashboard_address=f"{LOOPBACK}:0",
                    host=LOOPBACK,
                    local_directory=str(options.folder / "scratch" / f"{os.getpid()}-{number}"),
                )
                await stack.enter_async_context(one)
            yield

    return entered()


def _requests() -> dict[str, int]:
    return dict(_COUNTED)


_COUNTED: Counter[str] = Counter()


def _count_requests() -> None:
    """Count what boto3 sends, retries included, by its operation."""
    import botocore.endpoint

    send = botocore.endpoint.Endpoint._send_request  # noqa: SLF001

    def counted(self, request, operation_model):  # noqa: ANN001, ANN202
        _COUNTED[operation_model.name] += 1
        return send(self, request, operation_model)

    botocore.endpoint.Endpoint._send_request = counted  # noqa: SLF001


def _wait_for(folder: Path, processes: int, seconds: float = 1800) -> None:
    until = time.monotonic() + seconds
    while len(list(folder.glob("ready-*"))) < processes:
        if time.monotonic() > until:
            raise TimeoutError("the workers do not start")
        time.sleep(0.5)


@contextmanager
def _process(
    module: str, arguments: list[str], environment: dict[str, str] | None = None, *, output: bool = False
) -> Iterator[subprocess.Popen[bytes]]:
    out = subprocess.PIPE if output else subprocess.DEVNULL
    command = [sys.executable, "-m", module, *arguments]
    process = subprocess.Popen(command, env=environment, stdout=out, start_new_session=True)
    try:
        yield process
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and those that it started."""
    if process.poll() is None:
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait()
        for child in children:
            if child.is_running():
                child.kill()


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="phipack-cluster-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    if "COUNT_REQUESTS" in os.environ:
        _count_requests()
    sys.exit(main(sys.argv[1:]))
