"""MLflow's schema, made once a process.

MLflow migrates a new database through all its versions, which takes 2 s, and looks all of them up again for every
database that it opens. Both depend on the installed MLflow alone. So the first SQLite file is migrated and the others
are copies of it; whether a database's schema is the newest is still asked of each.
"""

from __future__ import annotations

import functools
import sqlite3
import threading
import warnings
from collections.abc import Callable
from typing import Any

from registry.ledger import mlflow_client, mlflow_connection


def make_schema_once() -> None:
    """Let it be so for all databases that this process opens from here on."""
    mlflow_client.connect = _connect


def _connect(uri: str) -> Any:
    mlflow_connection.load(uri)
    remember_schema()
    return mlflow_connection.connect(uri)


@functools.cache
def remember_schema() -> None:
    """The same where MLflow is imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its mappers
        from mlflow.store.db import utils
        from mlflow.store.model_registry import sqlalchemy_store

    utils._get_latest_schema_revision = functools.cache(utils._get_latest_schema_revision)
    utils._initialize_tables = sqlalchemy_store._initialize_tables = _Initial(utils._initialize_tables)


class _Initial:
    """Makes the tables of an empty database: in SQLite as they were made the first time."""

    def __init__(self, migrate: Callable[[Any], None]) -> None:
        self._migrate, self._alone = migrate, threading.Lock()
        self._made: sqlite3.Connection | None = None

    def __call__(self, engine: Any) -> None:
        if engine.dialect.name != "sqlite":
            self._migrate(engine)
            return
        with self._alone:
            if self._made is None:
                self._migrate(engine)
                self._made = sqlite3.connect(":memory:", check_same_thread=False)
                _copy(engine, lambda database: database.backup(self._made))
            else:
                _copy(engine, self._made.backup)


def _copy(engine: Any, copy: Callable[[Any], object]) -> None:
    connection = engine.raw_connection()
    try:
        copy(connection.driver_connection)
    finally:
        connection.close()
