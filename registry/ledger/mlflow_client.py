"""Getting at MLflow: a quiet client that fails soon. Only `ledger.py` uses it.

MLflow's defaults suit a notebook: it logs migrations to standard error, shows progress bars, reports its use to its
makers, and tries an unreachable server for minutes. What the environment sets explicitly is left as it is.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.files.staging import disk_errors
from registry.ledger.lease import Check, certain
from registry.ledger.lock_wait import Waiting
from registry.ledger.mlflow_errors import foreign_errors
from registry.ledger.postgresql_lock import CHANGE, MIGRATE, database_lock, is_postgresql
from registry.ledger.tracking import sqlite_path
from targets.errors import RegistryError
from targets.installation import install_command

if TYPE_CHECKING:
    from mlflow import MlflowClient

_ENVIRONMENT = {
    "MLFLOW_CONFIGURE_LOGGING": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}
LOCK_SECONDS = 60.0
_importing = threading.Lock()  # two threads in the middle of its circles of imports get stuck, or half a module


def connect(uri: str) -> MlflowClient:
    """Give a client for tracking and registry. A SQLite file is made and migrated where needed (2 s).

    Raises:
        RegistryError: MLflow is not installed, or the server or database can't be reached.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's own imports and mappers: nothing that a user could change
        try:
            with _importing:
                from mlflow import MlflowClient
        except ImportError as error:
            raise RegistryError(f"MLflow can't be imported: {error}", fix=install_command("registry")) from error
        for noisy in ("mlflow", "alembic", "sqlalchemy.pool"):
            logging.getLogger(noisy).setLevel(logging.CRITICAL)  # it logs errors with tracebacks, and raises them too
        with foreign_errors(uri):
            if not uri.startswith("http"):
                _try_database(uri)
            client = MlflowClient(tracking_uri=uri, registry_uri=uri)
            client.search_registered_models(max_results=1)  # so that an error comes here and not half-way
            return client


def files_at(place: str, uri: str) -> Any:
    """Give MLflow's repository of a run's files; its own way from a run's ID there asks three times more."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    return get_artifact_repository(place, tracking_uri=uri)


def pages(ask: Callable[[str | None], Any]) -> Iterator[Any]:
    """Give all rows of a paged query."""
    token = None
    while True:
        page = ask(token)
        yield from page
        token = page.token
        if not token:
            return


@contextmanager
def exclusive(uri: str, waiting: Waiting, *, migrating: bool = False) -> Iterator[Check | None]:
    """Hold the lock of a registry that has one: a local SQLite file's, or that of a PostgreSQL itself.

    Gives what is to be called before each change; None where the registry is a server, which has no such lock.
    `migrating`: hold off only who makes or migrates the same database.

    Raises:
        RegistryError: another process holds it for longer than `waiting` allows; the database can't be reached.
    """
    if (database := sqlite_path(uri)) is not None:
        with _file_lock(Path(f"{database}.lock"), waiting):
            yield certain
    elif is_postgresql(uri):
        with ExitStack() as stack:
            with foreign_errors(uri):
                check = stack.enter_context(database_lock(uri, MIGRATE if migrating else CHANGE, waiting))
            yield check
    else:
        yield None


@contextmanager
def _file_lock(lock: Path, waiting: Waiting) -> Iterator[None]:
    with disk_errors(lock, RegistryError):
        lock.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        started = time.monotonic()
        while not _locked(handle):
            waiting.note(time.monotonic() - started, "another phipack", str(lock))
            time.sleep(0.05)
        yield
    finally:
        os.close(handle)  # which lets go of the lock


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _try_database(uri: str) -> None:
    """Touch the database once: MLflow itself would try a damaged or absent one for 100 s."""
    import sqlalchemy

    if (path := sqlite_path(uri)) is not None:
        with disk_errors(path, RegistryError):
            path.parent.mkdir(parents=True, exist_ok=True)
    engine = sqlalchemy.create_engine(uri)
    try:
        sqlalchemy.inspect(engine).get_table_names()
    finally:
        engine.dispose()
