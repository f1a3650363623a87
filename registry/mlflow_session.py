"""Getting at MLflow: a quiet client that fails soon, and its errors as ours. Only `ledger.py` uses it.

MLflow's defaults suit a notebook: it logs migrations to standard error, shows progress bars, reports its use to its
makers, and tries an unreachable server for minutes. What the environment sets explicitly is left as it is.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.lease import AwayError, Check, certain
from registry.placement import disk_errors
from registry.postgresql_lock import CHANGE, MIGRATE, database_lock, is_postgresql
from registry.tracking import sqlite_path, without_password
from registry.waiting import Waiting
from targets.errors import PhipackError, RegistryError

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
_SERVER_ERRORS = 500  # the first status of those that are the server's
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
            raise RegistryError(f"MLflow can't be imported: {error}", fix="pip install 'phipack[registry]'") from error
        for noisy in ("mlflow", "alembic"):
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


@contextmanager
def foreign_errors(uri: str) -> Iterator[None]:
    """Wrap what MLflow, its database and its HTTP client raise into `RegistryError`."""
    try:
        yield
    except PhipackError:
        raise
    except KeyboardInterrupt as error:
        # A statement that was interrupted keeps SQLite's lock until the frames that know its cursor forget it: what is
        # to be tidied up now would wait for that lock for 20 s, in vain.
        traceback.clear_frames(error.__traceback__)
        raise
    except OSError as error:  # the disk's, and requests' errors
        raise _refusal(uri, error, getattr(getattr(error, "response", None), "status_code", None)) or RegistryError(
            f"MLflow at {without_password(uri)} failed: {error}",
            fix="see that the server runs and the folder is writable",
        ) from error
    except _foreign_kinds() as error:
        if uri.startswith("http") and _status_of(error) >= _SERVER_ERRORS:
            raise AwayError(
                f"MLflow at {without_password(uri)} can't be reached, or is in trouble: {_first_line(error)}",
                fix="see that the server runs and that --tracking-uri or MLFLOW_TRACKING_URI names it; then try again",
            ) from error
        raise _refusal(uri, error, _status_of(error)) or RegistryError(
            f"MLflow at {without_password(uri)} refused or can't be reached: {_first_line(error)}",
            fix="see MLflow's message above, and that --tracking-uri or MLFLOW_TRACKING_URI names the right server",
        ) from error


def _refusal(uri: str, error: Exception, status: int | None) -> RegistryError | None:
    """What to tell of an answer that MLflow's accounts, or a proxy's, gave; None where it was none."""
    account = os.environ.get("MLFLOW_TRACKING_USERNAME")
    if status == 401:
        refused = f"refuses account {account!r} or its password" if account else "lets in only who names an account"
        return RegistryError(
            f"MLflow at {without_password(uri)} {refused}",
            fix="set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (or MLFLOW_TRACKING_TOKEN) as it knows them",
        )
    if status == 403:
        return RegistryError(
            f"MLflow at {without_password(uri)} does not let {account or 'this account'} do this: {_first_line(error)}",
            fix="ask its administrator for a permission on the experiment MODEL and the registered models MODEL.CELL:"
            " READ to read, EDIT to register and promote, MANAGE to promote a cell to a channel for the first time",
        )
    return None


def _first_line(error: Exception) -> str:
    return without_password(str(error).strip().split("\n")[0].split("(Caused by ")[-1])


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


def _status_of(error: Exception) -> int:
    """The HTTP status that MLflow gives an error; its client's own, when nobody answers, is 500."""
    return int(getattr(error, "get_http_status_code", int)())


def _foreign_kinds() -> tuple[type[Exception], ...]:
    """Looked up only when something was raised: by then MLflow is imported anyway."""
    from alembic.util import CommandError
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return MlflowException, SQLAlchemyError, CommandError
