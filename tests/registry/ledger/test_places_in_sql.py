"""A registry is made in any folder: MLflow writes the current folder's path into SQL as Python's `repr` has it."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from registry.ledger.ledger import open_ledger
from registry.store.folder import FolderStore

VARIABLE = "_MLFLOW_SERVER_ARTIFACT_ROOT"


def location(database: Path) -> str:
    with closing(sqlite3.connect(database)) as connection:
        ((found,),) = connection.execute("SELECT artifact_location FROM experiments WHERE experiment_id = 0").fetchall()
    return str(found)


@pytest.mark.parametrize("name", ['it\'s "here"', "it's", "a :name", "back\\slash", "plain"])
def test_a_registry_is_made_wherever_the_project_is(
    tmp_path: Path, migrated_database: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Without its default experiment, MLflow takes a migrated database for one that it has just made."""
    here = tmp_path / name
    here.mkdir()
    database = Path(shutil.copy(migrated_database, here / "mlflow.db"))
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("DELETE FROM experiments")
        connection.commit()
    monkeypatch.chdir(here)
    ledger = open_ledger(f"sqlite:///{database}", FolderStore(here / "store"))
    ledger.mlflow.connect()
    assert ledger.models() == []
    assert location(database) in (f"{here}/mlruns/0", f"{here.as_uri()}/mlruns/0")
    assert VARIABLE not in os.environ


def test_what_the_user_has_set_stays(tmp_path: Path, migrated_database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "s3://bucket/runs")
    here = tmp_path / 'it\'s "here"'
    here.mkdir()
    monkeypatch.chdir(here)
    database = Path(shutil.copy(migrated_database, here / "mlflow.db"))
    open_ledger(f"sqlite:///{database}", FolderStore(here / "store")).mlflow.connect()
    assert os.environ[VARIABLE] == "s3://bucket/runs"
