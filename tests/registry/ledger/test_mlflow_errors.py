"""MLflow's errors are distinguished by types and codes, and keep no password."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from registry.ledger.mlflow_errors import MlflowError, foreign_errors
from targets.errors import RegistryError, RegistryUnreachableError, StoreUnreachableError
from targets.secrets import without_secrets

SERVER, SQLITE, POSTGRESQL = (
    "http://me:secret@mlflow",
    "sqlite:////srv/mlflow.db",
    "postgresql+psycopg2://me:secret@db/x",
)


def raised(uri: str, error: Exception, cause: Exception | None = None) -> RegistryError:
    with pytest.raises(RegistryError) as caught, foreign_errors(uri):
        raise error from cause
    assert caught.value.fix
    assert "secret" not in str(caught.value)
    return caught.value


def mlflow_error(code: int) -> Exception:
    from mlflow.exceptions import MlflowException

    return MlflowException("in words that nobody reads", error_code=code)


def database_error(original: Exception, *, invalidated: bool = False) -> Exception:
    from sqlalchemy.exc import OperationalError

    return OperationalError("SELECT", {}, original, connection_invalidated=invalidated)


def with_code(**codes: Any) -> Exception:
    error = sqlite3.OperationalError("in words that nobody reads")
    for name, code in codes.items():
        setattr(error, name, code)
    return error


@pytest.mark.parametrize(
    ("uri", "make"),
    [
        (SQLITE, lambda: with_code(sqlite_errorcode=sqlite3.SQLITE_FULL)),
        (POSTGRESQL, lambda: with_code(pgcode="53100")),
        (SERVER, lambda: OSError(errno.ENOSPC, "full")),
        (SERVER, lambda: OSError(errno.EDQUOT, "quota")),
    ],
)
def test_a_full_disk_is_found_behind_what_wraps_it(uri: str, make: Callable[[], Exception]) -> None:
    original = make()
    wrapped = database_error(original)
    wrapped.__cause__ = original
    assert "no space left" in raised(uri, mlflow_error(1), wrapped).problem


@pytest.mark.parametrize("code", [sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR | 3 << 8])
def test_a_database_that_cannot_be_written_is_said(code: int) -> None:
    original = with_code(sqlite_errorcode=code)
    assert "can't be written" in raised(SQLITE, database_error(original), original).problem


@pytest.mark.parametrize("code", ["08006", "53300", "57P01", "57P03", None])
def test_postgresql_that_is_away_is_unreachable(code: str | None) -> None:
    assert isinstance(raised(POSTGRESQL, database_error(with_code(pgcode=code))), RegistryUnreachableError)


@pytest.mark.parametrize("code", ["42501", "42P01", "40001"])
def test_what_postgresql_refuses_is_no_absence(code: str) -> None:
    assert not isinstance(raised(POSTGRESQL, database_error(with_code(pgcode=code))), RegistryUnreachableError)


def test_a_locked_sqlite_file_is_no_absence() -> None:
    error = raised(SQLITE, database_error(with_code(sqlite_errorcode=sqlite3.SQLITE_BUSY)))
    assert not isinstance(error, RegistryUnreachableError)


def test_an_error_that_came_before_decides_nothing() -> None:
    """While one error is dealt with, another call fails for a reason of its own."""
    first = raised(SQLITE, OSError(errno.ENOSPC, "full"))
    second = mlflow_error(1)
    second.__context__ = first
    assert "no space left" not in raised(SQLITE, second).problem


def test_refusals_keep_mlflows_code() -> None:
    from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS

    error = raised(SERVER, mlflow_error(RESOURCE_ALREADY_EXISTS))
    assert isinstance(error, MlflowError)
    assert error.code == "RESOURCE_ALREADY_EXISTS"


def test_a_server_that_needs_an_account_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.protos.databricks_pb2 import UNAUTHENTICATED

    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME", raising=False)
    assert raised(SERVER, mlflow_error(UNAUTHENTICATED)).problem.endswith("requires authentication")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann")
    assert "refuses account 'ann'" in raised(SERVER, mlflow_error(UNAUTHENTICATED)).problem


def test_a_server_in_trouble_is_unreachable() -> None:
    import requests
    from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, TEMPORARILY_UNAVAILABLE

    response = requests.Response()
    response.status_code = 503
    for error in (
        mlflow_error(INTERNAL_ERROR),
        mlflow_error(TEMPORARILY_UNAVAILABLE),
        requests.ConnectionError("no"),
        requests.Timeout("no"),
        requests.HTTPError("no", response=response),
    ):
        assert isinstance(raised(SERVER, error), RegistryUnreachableError)


def test_a_store_that_keeps_the_files_of_runs_may_be_away() -> None:
    from botocore.exceptions import EndpointConnectionError

    with pytest.raises(StoreUnreachableError), foreign_errors(SERVER):
        raise EndpointConnectionError(endpoint_url="http://s3")


def test_a_missing_driver_is_named() -> None:
    error = raised(POSTGRESQL, ModuleNotFoundError("No module named 'psycopg'", name="psycopg"))
    assert "psycopg is not installed" in error.problem


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:secret@h:1/x", "http://me:***@h:1/x"),
        ("postgresql+psycopg2://u:se/cr@t@h/db?token=abc&x=1", "postgresql+psycopg2://u:***@h/db?token=***&x=1"),
        ("at http://a:b@c and 'http://d:e@f'", "at http://a:***@c and 'http://d:***@f'"),
        ("http://h:5000/x", "http://h:5000/x"),
        (f"sqlite:///{Path('/a@b/c:d')}", "sqlite:////a@b/c:d"),
    ],
)
def test_passwords_are_not_shown(text: str, shown: str) -> None:
    assert without_secrets(text) == shown
