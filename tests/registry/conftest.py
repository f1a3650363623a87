"""Fixtures of the registry's room."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from devtools.bundles import make_bundle
from devtools.services.mlflow_server import MlflowServer, MlflowSettings, running_mlflow
from devtools.services.postgresql import PostgresqlServer, running_postgresql
from registry.bundle.folder import Bundle
from registry.ledger.ledger import Ledger, open_ledger
from registry.store.folder import FolderStore
from tests.support.databases import (
    MIGRATED,
    POSTGRESQL,
    SERVED,
    SQLITE,
    Databases,
    PostgresqlDatabases,
    ServedDatabases,
    SqliteDatabases,
)
from tests.support.s3 import s3_server, s3_store  # noqa: F401 - fixtures of the session


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

    A test names its own by `parametrize("databases", …, indirect=True)`.
    """
    named = any("databases" in mark.args[0] for mark in metafunc.definition.iter_markers("parametrize"))
    if "databases" in metafunc.fixturenames and not named:
        kinds = getattr(metafunc.module, "DATABASES", (SQLITE,))
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
def mlflow_server(postgresql: PostgresqlServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A tracking server on PostgreSQL, which serves artifacts out of a folder."""
    home = tmp_path_factory.mktemp("mlflow-server")
    backend = postgresql.make_database(SERVED, template=MIGRATED)
    with running_mlflow(home, MlflowSettings(backend, str(home / "artifacts"))) as server:
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
