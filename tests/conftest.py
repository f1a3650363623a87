"""Fixtures that every room uses."""

from __future__ import annotations

from pathlib import Path

import pytest

from builders.checkpoint import Checkpoint, open_checkpoint
from registry.ledger.ledger import open_ledger
from registry.store.folder import FolderStore
from tests.support.checkpoints import write_tiny
from tests.support.tiers import tiers_of


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint's folder, shared by the session: don't change it."""
    return write_tiny(tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> Checkpoint:
    """The same, opened."""
    return open_checkpoint(tiny_folder)


@pytest.fixture(scope="session")
def migrated_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's empty SQLite, migrated once: that takes 2 s."""
    home = tmp_path_factory.mktemp("mlflow")
    ledger = open_ledger(f"sqlite:///{home}/mlflow.db", FolderStore(home / "store"))
    ledger.mlflow.connect()
    return home / "mlflow.db"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with its tiers."""
    for item in items:
        if isinstance(item, pytest.Function):
            for tier in tiers_of(item):
                item.add_marker(tier)
