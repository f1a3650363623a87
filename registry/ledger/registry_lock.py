"""The lock of a whole registry, where it has one: of its SQLite file, or of the PostgreSQL that is reached directly.

A tracking server has none: there `lease.py` keeps other movers out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from registry.files.lock import file_lock
from registry.files.lock_wait import LockWait
from registry.files.staging import disk_errors
from registry.ledger.lease import HISTORY_FIX, Check, never_lost
from registry.ledger.mlflow_errors import foreign_errors
from registry.ledger.postgresql_lock import CHANGE, MIGRATE, database_lock
from registry.ledger.tracking import is_postgresql, sqlite_path
from targets.errors import RegistryError
from targets.progress import Progress, silent

LOCK_SECONDS = 60.0


def registry_wait(who: str, on_progress: Progress = silent) -> LockWait:
    """Return the wait for another process that changes the registry."""
    return LockWait(who, LOCK_SECONDS, RegistryError, HISTORY_FIX, on_progress)


@contextmanager
def registry_lock(uri: str, waiting: LockWait, *, migrating: bool = False) -> Iterator[Check | None]:
    """Hold the lock of the registry at `uri`.

    Yields what must be called before each change; None where the registry is a server, which has no lock. `migrating`:
    keep out only those who create or migrate the same database.

    Raises:
        RegistryError: another process holds it for longer than `waiting` allows; the database is unreachable.
    """
    if (database := sqlite_path(uri)) is not None:
        with _locked(Path(f"{database}.lock"), waiting):
            yield never_lost
    elif is_postgresql(uri):
        with ExitStack() as stack:
            with foreign_errors(uri):
                check = stack.enter_context(database_lock(uri, MIGRATE if migrating else CHANGE, waiting))
            yield check
    else:
        yield None


@contextmanager
def _locked(path: Path, waiting: LockWait) -> Iterator[None]:
    with ExitStack() as stack:
        with disk_errors(path, RegistryError):
            path.parent.mkdir(parents=True, exist_ok=True)
            on_wait = waiting.reporter("another phipack", str(path))
            with waiting:
                stack.enter_context(file_lock(path, on_wait=on_wait))
        yield
