"""MLflow's schema and statements, made once a process.

MLflow migrates a new database through all its versions, which takes 2 s, looks all of them up again for every database
that it opens, and has SQLAlchemy compile its statements for each. All of this depends on the installed MLflow alone. So
the first SQLite file is migrated and the others are copies of it, and what was compiled for one is taken for all;
whether a database's schema is the newest is still asked of each.
"""

from __future__ import annotations

import functools
import sqlite3
import threading
import warnings
from collections.abc import Callable
from typing import Any

from registry.ledger import mlflow_client, mlflow_connection


def make_schema_once(*, synced: bool = False) -> None:
    """Let it be so for all databases that this process opens from here on.

    Unless `synced`, it is left to the system when to write: what a test kills is a process, never the machine.
    """

    def connect(uri: str) -> Any:
        mlflow_connection.load(uri)
        remember_schema()
        if not synced:
            _never_wait_for_the_disk()
        return mlflow_connection.connect(uri)

    mlflow_client.connect = connect


@functools.cache
def remember_schema() -> None:
    """The same where MLflow is imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its mappers
        from mlflow.store.db import utils
        from mlflow.store.model_registry import sqlalchemy_store

    utils._get_latest_schema_revision = functools.cache(utils._get_latest_schema_revision)
    utils.create_sqlalchemy_engine = _Compiled(utils.create_sqlalchemy_engine)
    utils._initialize_tables = sqlalchemy_store._initialize_tables = _Initial(utils._initialize_tables)


@functools.cache
def _never_wait_for_the_disk() -> None:
    import sqlalchemy

    def leave_it_to_the_system(connection: Any, _: object) -> None:
        if isinstance(connection, sqlite3.Connection):
            connection.execute("PRAGMA synchronous = OFF")

    sqlalchemy.event.listen(sqlalchemy.Engine, "connect", leave_it_to_the_system)


class _Compiled:
    """Makes engines that share their compiled statements: those are kept by the dialect for which they were made."""

    def __init__(self, create: Callable[[str], Any]) -> None:
        self._create, self._first = create, None

    def __call__(self, uri: str) -> Any:
        engine = self._create(uri)
        if engine.dialect.name == "sqlite":
            self._first = self._first or engine
            engine.dialect, engine._compiled_cache = self._first.dialect, self._first._compiled_cache
        return engine


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
