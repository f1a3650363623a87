"""How long reading takes in a large registry: 2,310 versions of one model, through an MLflow server on PostgreSQL.

    python -m benchmarks.versions [--cells 30] [--releases 77] [--runs 3] [--server-workers 1]

The first release is registered as `phipack release` does it. Those of the others are copies of its rows in MLflow's
database, as registering each would take an hour. `production` points at the last release, `staging` at one in the
middle.
Prints medians, and what share of the time the client's own process used a processor.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from devtools.bundles import make_bundle, make_evidence
from devtools.services.mlflow_server import MlflowSettings, running_mlflow
from devtools.services.postgresql import PostgresqlServer, running_postgresql
from registry.ledger.ledger import Ledger, open_ledger
from registry.ledger.reader import resolve_in
from registry.ledger.registration import Registration
from registry.ledger.versions import RELEASE_TAG, registered_model_name
from registry.promotion import promote
from registry.store.folder import FolderStore
from targets.references import Reference, Version

MODEL = "phi-3-mini-4k-instruct"
DATABASE = "mlflow"
# What a copied row has in a column of MLflow's tables; `number`: its version.
_COPIED = {
    "version": "number",
    "value": f"CASE key WHEN '{RELEASE_TAG}' THEN '1.' || number - 1 || '.0' ELSE value END",
}


def cell_name(number: int) -> str:
    """Return the name of a cell."""
    return f"device-{number:02}"


def fill(postgresql: PostgresqlServer, ledger: Ledger, folder: Path, cells: int, releases: int) -> None:
    """Register the first release, copy its rows to those of the others, and point two channels at some of them."""
    bundle = make_bundle(folder / "bundle")
    ledger.store.add_bundle(bundle)
    for number in range(cells):
        evidence = make_evidence(bundle, target=cell_name(number))
        ledger.register(Registration(MODEL, Version.parse("1.0.0"), cell_name(number), bundle.manifest, evidence))
    for table in ("model_versions", "model_version_tags"):
        columns = [
            column
            for (column,) in postgresql.execute(
                "SELECT column_name FROM information_schema.columns WHERE table_name = %s", table, database=DATABASE
            )
        ]
        values = [_COPIED.get(column, column) for column in columns]
        postgresql.execute(
            f"INSERT INTO {table} ({', '.join(columns)}) SELECT {', '.join(values)}"  # noqa: S608 - MLflow's names
            f" FROM {table}, generate_series(2, {releases}) AS number",
            database=DATABASE,
        )
    postgresql.execute("ANALYZE", database=DATABASE)  # as PostgreSQL itself does within a minute of such a change
    for number in range(cells):
        ledger.point(registered_model_name(MODEL, cell_name(number)), "production", releases)
        ledger.point(registered_model_name(MODEL, cell_name(number)), "staging", releases // 2)


@contextmanager
def filled_server(folder: Path, cells: int, releases: int, workers: int = 1) -> Iterator[Ledger]:
    """Fill a database, run a server on it, and yield a ledger of the server."""
    store = FolderStore(folder / "store")
    with running_postgresql(folder / "postgresql") as postgresql:
        database = postgresql.make_database(DATABASE)
        fill(postgresql, open_ledger(database, store), folder, cells, releases)
        settings = MlflowSettings(database, str(folder / "artifacts"), workers=workers)
        with running_mlflow(folder / "mlflow", settings) as mlflow:
            yield open_ledger(mlflow.uri, store)


def measured(runs: int, action: Callable[[], object]) -> tuple[float, float]:
    """Return the median of an action's seconds, and that of this process's processor time."""
    seconds, processor = [], []
    for _ in range(runs):
        began, used = time.perf_counter(), time.process_time()
        action()
        seconds.append(time.perf_counter() - began)
        processor.append(time.process_time() - used)
    return statistics.median(seconds), statistics.median(processor)


def main() -> None:
    """Fill a registry and print how long reading takes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=30)
    parser.add_argument("--releases", type=int, default=77)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--server-workers", type=int, default=1)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="phipack-versions-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        with filled_server(folder, asked.cells, asked.releases, asked.server_workers) as ledger:
            count = asked.cells * asked.releases
            assert len(ledger.versions()) == count, "a version is missing"
            print(f"{count} versions, median of {asked.runs}")
            report(ledger, asked.runs)


def report(ledger: Ledger, runs: int) -> None:
    """Print the seconds of each way to read."""
    some = cell_name(1)

    def resolving(reference: str) -> Callable[[], object]:
        return lambda: resolve_in(ledger, Reference.parse(reference))

    def shown() -> object:
        return [ledger.evidence(version) for version in resolve_in(ledger, Reference.parse(f"{MODEL}:1.1.0@{some}"))]

    ways: dict[str, Callable[[], object]] = {
        "ls, all rows": ledger.versions,
        "show, an exact version of one cell": shown,
        "a version": resolving(f"{MODEL}:1.5.0"),
        "a channel's cell": resolving(f"{MODEL}:production@{some}"),
        "a channel": resolving(f"{MODEL}:production"),
        "an older channel": resolving(f"{MODEL}:staging"),
        "a range": resolving(f"{MODEL}:^1.2"),
    }
    for what, action in ways.items():
        seconds, processor = measured(runs, action)
        print(f"{what:36}{seconds:6.2f} s, of which {processor:5.2f} s in this process")
    began = time.perf_counter()
    promote(ledger, Reference.parse(f"{MODEL}:1.7.0"), "staging", who="benchmark")
    print(f"{'a promotion of all cells':36}{time.perf_counter() - began:6.2f} s")


if __name__ == "__main__":
    main()
