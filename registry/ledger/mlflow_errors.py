"""What MLflow, its database and its HTTP client raise, as our errors: what happened, and what to do.

Decided by types and codes alone (MLflow's error_code and HTTP status, errno, SQLite's and PostgreSQL's codes), never by
the words of a message.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import ssl
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from registry.ledger.database_schema import schema_trouble
from registry.ledger.postgresql_login import CONNECTED, login_sqlstate
from registry.ledger.tracking import is_postgresql
from registry.store.s3_client import s3_errors
from registry.transfer.network_settings import CERTIFICATE_FIX
from targets.errors import PhipackError, RegistryError, RegistryUnreachableError
from targets.secrets import shown, without_secrets

# Base classes of what they raise, without importing them.
_MLFLOW_KINDS = (
    ("builtins", "OSError"),  # the disk's, and those of requests
    ("mlflow.exceptions", "MlflowException"),
    ("sqlalchemy.exc", "SQLAlchemyError"),
    ("alembic.util", "CommandError"),
)
_S3_KINDS = (("botocore.exceptions", "BotoCoreError"), ("botocore.exceptions", "ClientError"))
_INTERNAL_ERROR = "INTERNAL_ERROR"  # MLflow's error_code where it names no other
_SERVER_ERRORS = 500  # the first HTTP status of those that are the server's
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_SQLITE_UNWRITABLE = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY)
_POSTGRESQL_DISK_FULL = "53100"
_POSTGRESQL_NO_DATABASE = "3D000"
# Connection exceptions; too many connections; the server is shutting down, has crashed, or is starting.
_POSTGRESQL_AWAY = ("08", "53300", "57P01", "57P02", "57P03")


class MlflowError(RegistryError):
    """MLflow refused a call. `code`: its error_code, such as RESOURCE_DOES_NOT_EXIST; empty where it gave none."""

    def __init__(self, problem: str, *, code: str, fix: str) -> None:
        super().__init__(problem, fix=fix)
        self.code = code


@contextmanager
def foreign_errors(uri: str) -> Iterator[None]:
    """Turn what MLflow, its database and its HTTP client raise into `RegistryError`."""
    try:
        yield
    except PhipackError:
        raise
    except KeyboardInterrupt as error:
        # A statement that was interrupted keeps SQLite's lock until the frames that know its cursor are gone: tidying
        # up would wait for that lock for 20 s, in vain.
        traceback.clear_frames(error.__traceback__)
        raise
    except ModuleNotFoundError as error:  # SQLAlchemy looks for the database's driver
        raise RegistryError(
            f"MLflow at {shown(uri)}: the database's driver {error.name} is not installed",
            fix=f"pip install {error.name}, or name an installed one in the URI: postgresql+psycopg2://…",
        ) from error
    except _loaded(_S3_KINDS) as error:  # of a store that keeps the files of runs
        with s3_errors("the files of MLflow's runs", "transferring"):
            raise error from error.__cause__
    except _loaded(_MLFLOW_KINDS) as error:
        raise _explained(uri, error) from error


def _explained(uri: str, error: Exception) -> RegistryError:
    """Return the error to raise: the first of the kinds below that it is."""
    for kind in (_disk_trouble, _untrusted, _login_refused, _no_answer, _other_schema):
        if (found := kind(uri, error)) is not None:
            return found
    return _refusal(uri, error)


def _disk_trouble(uri: str, error: Exception) -> RegistryError | None:
    """Return the error to raise where the disk is behind `error`; None where it is not."""
    place = shown(uri)
    for cause in _causes(error):
        sqlite_code = getattr(cause, "sqlite_errorcode", 0) & 0xFF  # the primary code of an extended one
        no_space = getattr(cause, "errno", None) in _NO_SPACE or sqlite_code == sqlite3.SQLITE_FULL
        if no_space or getattr(cause, "pgcode", None) == _POSTGRESQL_DISK_FULL:
            return RegistryError(f"no space left for MLflow at {place}", fix="free space there, then try again")
        if sqlite_code in _SQLITE_UNWRITABLE:
            return RegistryError(
                f"MLflow's database {place} can't be written: {_first_line(uri, cause)}",
                fix="check that its disk has space left and that you may write to its folder, then try again",
            )
    return None


def _untrusted(uri: str, error: Exception) -> RegistryError | None:
    """Return the error to raise where a server's certificate is not valid here; else None."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return RegistryError(
                f"MLflow at {shown(uri)}: its certificate is not valid: {cause.verify_message}", fix=CERTIFICATE_FIX
            )
    return None


def _no_answer(uri: str, error: Exception) -> RegistryError | None:
    """Return the error to raise where a server or database did not answer, or is in trouble; else None."""
    if uri.startswith("http"):
        away = _http_status(error) >= _SERVER_ERRORS or isinstance(error, _connection_kinds())
        fix = "check that the server runs and that --tracking-uri or MLFLOW_TRACKING_URI is its address, then try again"
    else:
        away = isinstance(error, ConnectionError) or any(_is_database_away(uri, cause) for cause in _causes(error))
        fix = "check that the database runs and that --tracking-uri has its address, then try again"
    if not away:
        return None
    return RegistryUnreachableError(
        f"MLflow at {shown(uri)} is unreachable or in trouble: {_first_line(uri, error)}", fix=fix
    )


def _login_refused(uri: str, error: Exception) -> RegistryError | None:
    """Return the error to raise where PostgreSQL answers, and refuses the login; else None."""
    for cause in _causes(error):
        if _is_codeless(uri, cause):
            code = login_sqlstate(uri)
            if code in (None, CONNECTED) or str(code).startswith(_POSTGRESQL_AWAY):
                return None
            return RegistryError(
                f"PostgreSQL at {shown(uri)} refuses the login: {_first_line(uri, cause)}",
                fix="create the database, or correct its name in --tracking-uri"
                if code == _POSTGRESQL_NO_DATABASE
                else "check user and password in --tracking-uri, and what the server's pg_hba.conf allows",
            )
    return None


def _other_schema(uri: str, error: Exception) -> RegistryError | None:
    """Return the error to raise where the database has another MLflow's schema, or half of one; else None."""
    if uri.startswith("http") or getattr(error, "error_code", _INTERNAL_ERROR) != _INTERNAL_ERROR:
        return None
    sql = getattr(sys.modules.get("sqlalchemy.exc"), "SQLAlchemyError", ())
    try:
        return schema_trouble(uri, _first_line(uri, error), while_migrating=isinstance(error, sql))
    except _loaded(_MLFLOW_KINDS):  # then it can't be looked at, and the first error says more
        return None


def _refusal(uri: str, error: Exception) -> MlflowError:
    """Return the error to raise for what MLflow, its accounts or a proxy's answered."""
    place, code, status = shown(uri), str(getattr(error, "error_code", "")), _http_status(error)
    account = os.environ.get("MLFLOW_TRACKING_USERNAME")
    if status == 401:
        refused = f"refuses account {account!r} or its password" if account else "requires authentication"
        return MlflowError(
            f"MLflow at {place} {refused}",
            code=code,
            fix="set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
        )
    if status == 403:
        return MlflowError(
            f"MLflow at {place} does not let {account or 'this account'} do this: {_first_line(uri, error)}",
            code=code,
            fix="ask its administrator for a permission on the experiment MODEL and the registered models MODEL.CELL:"
            " READ to read, EDIT to register and promote, MANAGE to promote a cell to a channel for the first time",
        )
    return MlflowError(
        f"MLflow at {place} failed: {_first_line(uri, error)}",
        code=code,
        fix="see MLflow's message above, and check that --tracking-uri or MLFLOW_TRACKING_URI is right",
    )


def _is_database_away(uri: str, cause: Exception) -> bool:
    """True where the connection broke, PostgreSQL says that it is not there, or never answered: without a code then."""
    from sqlalchemy.exc import DBAPIError, OperationalError

    if not isinstance(cause, DBAPIError):
        return False
    if is_postgresql(uri) and isinstance(cause, OperationalError):
        return _is_codeless(uri, cause) or str(_sqlstate(cause)).startswith(_POSTGRESQL_AWAY)
    return cause.connection_invalidated


def _is_codeless(uri: str, cause: Exception) -> bool:
    """True where PostgreSQL's driver raised an error without a code: no connection was made, or it broke."""
    if not is_postgresql(uri) or "sqlalchemy.exc" not in sys.modules:
        return False
    from sqlalchemy.exc import OperationalError

    return isinstance(cause, OperationalError) and _sqlstate(cause) is None


def _sqlstate(cause: Any) -> str | None:
    return getattr(cause.orig, "pgcode", None) or getattr(cause.orig, "sqlstate", None)


def _causes(error: BaseException | None) -> Iterator[Exception]:
    """Yield the error and what led to it, up to an error of ours: what comes after that was another call's."""
    while isinstance(error, Exception) and not isinstance(error, PhipackError):
        yield error
        error = error.__cause__ or error.__context__


def _first_line(uri: str, error: BaseException) -> str:
    """Return what happened in one line, without SQLAlchemy's remark on where and urllib3's on what it tried."""
    lines = [line for line in str(error).strip().split("\n") if not line.startswith("(raised as a result of ")]
    return without_secrets((lines or [""])[0].split("(Caused by ")[-1], uri)


def _http_status(error: Exception) -> int:
    """Return the HTTP status of an answer, or that MLflow gives an error; its client's own, without answer, is 500."""
    response = getattr(error, "response", None)  # of requests
    if response is not None:
        return int(response.status_code)
    return int(getattr(error, "get_http_status_code", int)())


def _connection_kinds() -> tuple[type[Exception], ...]:
    from requests.exceptions import ConnectionError as NoConnection
    from requests.exceptions import Timeout

    return ConnectionError, TimeoutError, NoConnection, Timeout


def _loaded(kinds: Iterable[tuple[str, str]]) -> tuple[type[Exception], ...]:
    """Return those classes (module, name) whose module was imported: what was not has raised nothing."""
    return tuple(getattr(sys.modules[module], name) for module, name in kinds if module in sys.modules)
