"""Fixtures of the registry's room."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from registry.bundle import Bundle
from registry.folder_store import FolderStore
from registry.ledger import Ledger, open_ledger
from tests.registry.bundles import make_bundle
from tests.registry.s3 import s3_server, s3_store  # noqa: F401 - fixtures of the session


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A small bundle of three files, one of them in a folder."""
    return make_bundle(tmp_path / "bundle")


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    """An empty store."""
    return FolderStore(tmp_path / "store")


@pytest.fixture(scope="session")
def migrated_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's empty SQLite, migrated once: that takes 2 s."""
    home = tmp_path_factory.mktemp("mlflow")
    ledger = open_ledger(f"sqlite:///{home}/mlflow.db", FolderStore(home / "store"))
    assert ledger.models() == []
    return home / "mlflow.db"


@pytest.fixture
def ledger(migrated_database: Path, tmp_path: Path, store: FolderStore) -> Ledger:
    """An empty ledger of its own."""
    (tmp_path / "home").mkdir()
    shutil.copy(migrated_database, tmp_path / "home" / "mlflow.db")
    return open_ledger(f"sqlite:///{tmp_path}/home/mlflow.db", store)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
