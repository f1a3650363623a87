"""What MLflow, its database and its HTTP client raise, as our errors: what happened, and what to do."""

from __future__ import annotations

import errno
import os
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from registry.ledger.lease import AwayError
from registry.ledger.tracking import without_password
from targets.errors import PhipackError, RegistryError

_SERVER_ERRORS = 500  # the first HTTP status of those that are the server's
_FULL = re.compile("database or disk is full|No space left on device|could not extend file")  # SQLite, C, PostgreSQL
_UNWRITABLE = re.compile("unable to open database file|disk I/O error|attempt to write a readonly database")  # SQLite


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
        status = getattr(getattr(error, "response", None), "status_code", None)
        raise (
            _disk_trouble(uri, error)
            or _refusal(uri, error, status)
            or RegistryError(
                f"MLflow at {without_password(uri)} failed: {error}",
                fix="see that the server runs and the folder is writable",
            )
        ) from error
    except _foreign_kinds() as error:
        if uri.startswith("http") and _status_of(error) >= _SERVER_ERRORS:
            raise AwayError(
                f"MLflow at {without_password(uri)} can't be reached, or is in trouble: {_first_line(error)}",
                fix="see that the server runs and that --tracking-uri or MLFLOW_TRACKING_URI names it; then try again",
            ) from error
        raise (
            _disk_trouble(uri, error)
            or _refusal(uri, error, _status_of(error))
            or RegistryError(
                f"MLflow at {without_password(uri)} refused or can't be reached: {_first_line(error)}",
                fix="see MLflow's message above, and that --tracking-uri or MLFLOW_TRACKING_URI names the right server",
            )
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


def _disk_trouble(uri: str, error: BaseException) -> RegistryError | None:
    """What to tell where the disk is behind an error; None where it is not."""
    place = without_password(uri)
    for cause in _causes(error):
        if getattr(cause, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or _FULL.search(str(cause)):
            return RegistryError(f"no space left for MLflow at {place}", fix="free space there, then try again")
    if (found := _UNWRITABLE.search(str(error))) is not None:
        return RegistryError(
            f"MLflow's database {place} can't be written: {found[0]}",
            fix="see that its disk has space left and that you may write to its folder; then try again",
        )
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _first_line(error: Exception) -> str:
    """What happened, in one line, without SQLAlchemy's remark on where it was and urllib3's on what it tried."""
    lines = [line for line in str(error).strip().split("\n") if not line.startswith("(raised as a result of ")]
    return without_password((lines or [""])[0].split("(Caused by ")[-1])


def _status_of(error: Exception) -> int:
    """The HTTP status that MLflow gives an error; its client's own, when nobody answers, is 500."""
    return int(getattr(error, "get_http_status_code", int)())


def _foreign_kinds() -> tuple[type[Exception], ...]:
    """Looked up only when something was raised: by then MLflow is imported anyway."""
    from alembic.util import CommandError
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return MlflowException, SQLAlchemyError, CommandError
