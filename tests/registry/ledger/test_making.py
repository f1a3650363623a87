"""A new registry in a SQLite file: whole, or not there."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from registry.files.staging import owner_mark
from registry.ledger.ledger import Ledger, open_ledger
from registry.store.folder import FolderStore
from targets.errors import RegistryError
from tests.support.mlflow_schema import remember_schema


def ledger_at(path: Path) -> Ledger:
    return open_ledger(f"sqlite:///{path}", FolderStore(path.with_name("store")))


class Stops:
    """Makes the first tables of a new database, as MLflow does, and ends there."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __call__(self, engine: Any) -> None:
        from mlflow.store.tracking.dbmodels.initial_models import Base

        Base.metadata.create_all(engine)
        raise self._error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")], ids=["Ctrl-C", "full"])
@pytest.mark.parametrize("is_empty", [False, True], ids=["no file", "an empty file"])
def test_one_that_was_stopped_half_way_is_not_there(
    tmp_path: Path, error: BaseException, is_empty: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite keeps each step of MLflow's migration at once, and MLflow refuses a database in between for ever."""
    remember_schema()  # imports it without its warnings
    from mlflow.store.db import utils
    from mlflow.store.model_registry import sqlalchemy_store

    path = tmp_path / "mlflow.db"
    if is_empty:
        path.touch()
    with monkeypatch.context() as patch:
        for module in (utils, sqlalchemy_store):
            patch.setattr(module, "_initialize_tables", Stops(error))
        with pytest.raises((KeyboardInterrupt, RegistryError)):
            ledger_at(path).mlflow.connect()
    assert {one.name for one in tmp_path.iterdir()} - {"mlflow.db"} == {"mlflow.db.lock"}
    assert path.exists() == is_empty
    assert not is_empty or path.stat().st_size == 0
    ledger_at(path).mlflow.connect()
    assert path.stat().st_size > 0


def test_what_a_killed_process_left_goes_with_the_next_connection(tmp_path: Path) -> None:
    """Also where it was killed after it had put the registry in its place."""
    path = tmp_path / "mlflow.db"
    ledger_at(path).mlflow.connect()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (tmp_path / f".mlflow.db-{owner_mark().split('-')[0]}-{ended.pid}-abc").mkdir()
    ledger_at(path).mlflow.connect()
    assert sorted(one.name for one in tmp_path.iterdir()) == ["mlflow.db", "mlflow.db.lock"]


def test_a_link_leads_to_where_it_is_made(tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "elsewhere" / "mlflow.db")
    ledger_at(tmp_path / "link.db").mlflow.connect()
    assert (tmp_path / "link.db").is_symlink()
    assert (tmp_path / "elsewhere" / "mlflow.db").stat().st_size > 0


def test_one_that_is_there_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE mine (number INTEGER)")
    before = path.stat().st_ino
    ledger_at(path).mlflow.connect()
    assert path.stat().st_ino == before


@pytest.mark.parametrize(
    ("statements", "problem", "fix"),
    [
        (["UPDATE alembic_version SET version_num = 'ffffffffffff'"], "does not know: a later one made it", "install"),
        (["UPDATE alembic_version SET version_num = '7f2a7d5fae7d'"], "of an earlier MLflow", "mlflow db upgrade"),
        (
            ["UPDATE alembic_version SET version_num = '7f2a7d5fae7d'", "DROP TABLE trace_tags"],
            "is between two schemas",
            "restore a copy",
        ),
    ],
    ids=["later", "earlier", "half-way"],
)
def test_another_schema_is_said_with_what_to_do(
    tmp_path: Path,
    migrated_database: Path,
    statements: list[str],
    problem: str,
    fix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    remember_schema()  # imports it without its warnings
    from mlflow.store.db import utils
    from mlflow.store.model_registry import sqlalchemy_store

    for module in (utils, sqlalchemy_store):  # what was remembered is a whole database
        monkeypatch.setattr(module, "_initialize_tables", utils._upgrade_db)
    path = tmp_path / "mlflow.db"
    shutil.copyfile(migrated_database, path)
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)
    with pytest.raises(RegistryError, match=problem) as caught:
        ledger_at(path).mlflow.connect()
    assert caught.value.fix is not None
    assert fix in caught.value.fix
