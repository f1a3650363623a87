"""An MLflow server with accounts, one for all tests of them: it starts for 10 s, and refuses what was not granted."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from devtools.services.mlflow_server import ADMINISTRATOR, MlflowSettings, running_mlflow
from devtools.services.seaweedfs import S3Server
from registry.store.folder import FolderStore
from registry.store.protocol import Store
from registry.store.s3 import S3Store
from tests.support.mlflow_account import MlflowAccount
from tests.support.s3 import BUCKET


@dataclass(frozen=True)
class ServerWithAccounts:
    """Its address, its administrator and password, its SQLite file, its folder, and the stores that it serves."""

    uri: str
    password: str
    administrator: MlflowAccount
    database: Path
    home: Path
    stores: dict[str, Store]


@pytest.fixture(scope="session")
def server_with_accounts(
    tmp_path_factory: pytest.TempPathFactory, migrated_database: Path, s3_server: S3Server
) -> Iterator[ServerWithAccounts]:
    """A server whose accounts have no permissions until they are granted, and which serves two stores."""
    home = tmp_path_factory.mktemp("server with accounts")
    database = Path(shutil.copy(migrated_database, home / "mlflow.db"))
    stores: dict[str, Store] = {"file": FolderStore(home / "store"), "s3": S3Store(BUCKET, "served files/store")}
    served = tuple(store.uri for store in stores.values())
    settings = MlflowSettings(f"sqlite:///{database}", str(home / "artifacts"), s3_server.environment, True, served)
    with running_mlflow(home / "server", settings) as server:
        administrator = MlflowAccount(server.uri, ADMINISTRATOR, server.password)
        yield ServerWithAccounts(server.uri, server.password, administrator, database, home, stores)
