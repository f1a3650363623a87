"""Fixtures of the registry's room."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from devtools.bundles import make_bundle
from devtools.catalogs import Phone, Publisher
from devtools.servers import RangeHandler, serving
from devtools.services.mlflow_server import MlflowServer, MlflowSettings, running_mlflow
from devtools.services.postgresql import PostgresqlServer, running_postgresql
from registry.bundle.folder import Bundle
from registry.ledger.ledger import Ledger, open_ledger
from registry.store.folder import FolderStore
from registry.transfer import http as http_requests
from tests.support.databases import (
    EVERY,
    MIGRATED,
    POSTGRESQL,
    SERVED,
    SQLITE,
    Databases,
    KeptRegistry,
    PostgresqlDatabases,
    ServedDatabases,
    SqliteDatabases,
    keep_registry,
)
from tests.support.releases import add
from tests.support.s3 import s3_server, s3_store  # noqa: F401 - fixtures of the session

# A load from other processes is for `make test-all`: promoters at once are in test_lease.py and test_promotion.py too.
collect_ignore = [] if EVERY else ["test_load.py"]


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A small bundle of three files, one of them in a folder."""
    return make_bundle(tmp_path / "bundle")


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    """An empty store."""
    return FolderStore(tmp_path / "store")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a module's tests on every kind of database that its `DATABASES` names; SQLite alone where it names none.

    A test names its own by `parametrize("databases", …, indirect=True)`. One that is marked as `client_side` runs on
    the first kind: which refusal it gets, or what a move holds, does not depend on where MLflow's rows are.
    """
    named = any("databases" in mark.args[0] for mark in metafunc.definition.iter_markers("parametrize"))
    if "databases" in metafunc.fixturenames and not named:
        kinds = getattr(metafunc.module, "DATABASES", (SQLITE,))
        if metafunc.definition.get_closest_marker("client_side") and not EVERY:
            kinds = kinds[:1]
        metafunc.parametrize("databases", kinds, indirect=True, scope="session")


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresqlServer]:
    """PostgreSQL, with an empty registry in the database `migrated`.

    Not in pytest's own folder: only its owner may enter that, and PostgreSQL may be another user.
    """
    with tempfile.TemporaryDirectory(prefix="phipack-postgresql-") as folder:
        Path(folder).chmod(0o711)
        with running_postgresql(Path(folder) / "postgresql", durable=False) as server:
            ledger = open_ledger(server.make_database(MIGRATED), FolderStore(Path(folder) / "store"))
            ledger.mlflow.connect()
            server.cut_connections(MIGRATED)
            yield server


@pytest.fixture(scope="session")
def served_store(tmp_path_factory: pytest.TempPathFactory) -> FolderStore:
    """The store whose bundles the tracking server gives out."""
    return FolderStore(tmp_path_factory.mktemp("served") / "store")


@pytest.fixture(scope="session")
def mlflow_server(
    postgresql: PostgresqlServer, served_store: FolderStore, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MlflowServer]:
    """A tracking server on PostgreSQL, which serves artifacts out of a folder."""
    home = tmp_path_factory.mktemp("mlflow-server")
    backend = postgresql.make_database(SERVED, template=MIGRATED)
    settings = MlflowSettings(backend, str(home / "artifacts"), stores=(served_store.uri,))
    with running_mlflow(home, settings) as server:
        yield server


@pytest.fixture(scope="session")
def databases(request: pytest.FixtureRequest) -> Databases:
    """One kind of database, as the test's module or the test asks."""
    if request.param == SQLITE:
        return SqliteDatabases(request.getfixturevalue("migrated_database"))
    server = request.getfixturevalue("postgresql")
    if request.param == POSTGRESQL:
        return PostgresqlDatabases(server)
    return ServedDatabases(server, request.getfixturevalue("mlflow_server"))


@pytest.fixture
def ledger(databases: Databases, tmp_path: Path, store: FolderStore) -> Ledger:
    """An empty ledger of its own."""
    return open_ledger(databases.fresh(tmp_path / "home"), store)


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    """Has keys, and nothing published."""
    return Publisher(tmp_path / "publisher")


@pytest.fixture
def catalog_url(publisher: Publisher) -> Iterator[str]:
    """The publisher's catalog, served."""
    publisher.place.root.mkdir(parents=True)
    with serving(publisher.place.root, kind=RangeHandler) as url:
        yield url


@pytest.fixture
def phone(tmp_path: Path, publisher: Publisher, catalog_url: str) -> Phone:
    """Trusts the publisher's first root."""
    return Phone(tmp_path / "phone", catalog_url, publisher.root)


@pytest.fixture
def local_and_impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask local servers without a proxy, and again at once."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(http_requests, "RETRY_WAITS_SECONDS", (0.01, 0.01))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A place in a folder of its own, so that anything left next to it is seen."""
    (tmp_path / "place").mkdir()
    return tmp_path / "place" / "out"


@pytest.fixture(scope="session")
def released(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> KeptRegistry:
    """Releases 1.0.0, 1.1.0 and 1.2.0 of three cells."""

    def make(ledger: Ledger, home: Path) -> None:
        for version in ("1.0.0", "1.1.0", "1.2.0"):
            add(ledger, home, version)

    return keep_registry(databases, tmp_path_factory.mktemp("released"), make)


@pytest.fixture
def releases(databases: Databases, released: KeptRegistry, tmp_path: Path) -> Ledger:
    """The same, for one test."""
    return released.again(databases, tmp_path / "home")
