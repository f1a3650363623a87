"""32 promoters and 64 fetchers at once on PostgreSQL and S3, through an MLflow server.

    python -m benchmarks.load [--seconds 60] [--promoters 32] [--fetchers 64] [--processes 8]
                              [--server-workers 1]

Promoters move the production channels of four models to one of three releases or roll them back. Fetchers resolve a
channel, then fetch and verify the bundle. None of them pauses. Afterwards every history is checked: each move must
begin where the previous one ended, and the aliases must be those of the last move. Prints counts, errors by kind,
latencies, requests to MLflow, what clients and server use of the processors, and what the leases were doing.
`docs/benchmarks/registry.md` has figures.
"""

from __future__ import annotations

import argparse
import collections
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from devtools.lease_events import handovers
from devtools.load import Place, Results, lost_updates, release_all, run
from devtools.services.mlflow_server import MlflowServer, MlflowSettings, running_mlflow
from devtools.services.postgresql import running_postgresql
from devtools.services.seaweedfs import running_seaweedfs


@contextmanager
def services(folder: Path, workers: int) -> Iterator[MlflowServer]:
    """Run the services and yield MLflow's server. S3's settings are put into the environment."""
    with (
        running_postgresql(folder / "postgresql") as postgresql,
        running_seaweedfs(folder / "seaweedfs", patience_seconds=1) as s3,
    ):
        os.environ.update(s3.environment)
        s3.make_bucket("phipack-load")
        database, files = postgresql.make_database("mlflow"), "s3://phipack-load/mlflow"
        settings = MlflowSettings(database, files, s3.environment, workers=workers)
        with running_mlflow(folder / "mlflow", settings) as mlflow:
            yield mlflow


def _processor_seconds() -> float:
    """Return what ended children of this process have used of processors: all clients, when they have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _server_seconds(server: MlflowServer) -> float:
    """Return what the server and its workers have used of processors."""
    process = psutil.Process(server.process.pid)
    return sum(sum(one.cpu_times()[:2]) for one in (process, *process.children(recursive=True)))


def _report_server(found: Results, seconds: float) -> None:
    """Print what the server did, and what each thing that was done asked of it, connecting included."""
    made = sum(sum(requests.values()) for requests in found.requests.values())
    print(f"MLflow: {seconds:.0f} s of a processor for {made} requests, {1000 * seconds / made:.0f} ms each")
    for role, requests in found.requests.items():
        done = sum((kind == "fetch") == (role == "fetch") and not error for kind, _, error in found.records)
        each = sum(requests.values()) / max(1, done)
        print(f"requests for each {role} that was done: {each:.1f}, {each * seconds / made:.2f} s of its processor")
        for name, count in sorted(requests.items(), key=lambda item: -item[1]):
            print(f"  {count / max(1, done):5.1f}  {name}")


def main() -> None:
    """Run the benchmark and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--promoters", type=int, default=32)
    parser.add_argument("--fetchers", type=int, default=64)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--server-workers", type=int, default=1)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="phipack-load-") as name:
        Path(name).chmod(0o711)
        with services(Path(name), asked.server_workers) as server:
            place = Place(server.uri, "s3://phipack-load/store")
            ledger = release_all(place, Path(name) / "bundles")
            print(f"load of the machine before: {os.getloadavg()[0]:.1f}, {os.cpu_count()} processors", flush=True)
            began, before, server_before = time.monotonic(), _processor_seconds(), _server_seconds(server)
            found = run(place, asked.promoters, asked.fetchers, asked.seconds, asked.processes)
            used, took = _processor_seconds() - before, time.monotonic() - began
            print(f"clients: {used:.0f} s of a processor in {took:.0f} s, start and end included")
            _report_server(found, _server_seconds(server) - server_before)
            problems = lost_updates(ledger)
    records = found.records
    for what in ("promote", "rollback", "fetch"):
        done = sorted(seconds for kind, seconds, error in records if kind == what and not error)
        if done:
            p99 = done[min(len(done) - 1, int(len(done) * 0.99))]
            print(f"{what}: {len(done)} done, p50 {statistics.median(done):.2f} s, p99 {p99:.2f} s")
    parts = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in handovers(found.events).items())
    print(f"from one release of a lease to the next: {parts}")
    for error, count in collections.Counter(error for *_, error in records if error).most_common(10):
        print(f"{count} x {error}")
    print(f"lost updates, torn histories: {len(problems)} {problems[:3]}")


if __name__ == "__main__":
    main()
