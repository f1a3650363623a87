"""The lock of a registry in PostgreSQL that is reached directly, without a tracking server: an advisory lock.

It belongs to a connection of its own and ends with it: at once when its process dies, and when its machine is gone,
as soon as PostgreSQL finds that nobody answers (25 s). It is a transaction's lock, so that a pooler which hands
connections out by transaction keeps it too. The holder asks before each change whether the connection stands.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from registry.files.lock_wait import LockWait
from registry.ledger.lease import Check, LeaseLostError
from targets.secrets import shown

if TYPE_CHECKING:
    from sqlalchemy import Connection

_CLASS = 0x70687069  # "phpi": our own among advisory locks
CHANGE, MIGRATE = 1, 2
_POLL_MS = 500  # so long a wait in PostgreSQL's own queue can't be interrupted

# An administrator's bound on idle transactions must not take the lock away; a vanished machine must.
_SETTINGS = {
    "application_name": "{who}",
    "idle_in_transaction_session_timeout": "0",
    "lock_timeout": str(_POLL_MS),
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}
_HOLDER = """
SELECT a.application_name FROM pg_locks l JOIN pg_stat_activity a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND l.classid = :class AND l.objid = :lock
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


@contextmanager
def database_lock(uri: str, lock: int, waiting: LockWait) -> Iterator[Check]:
    """Hold `CHANGE` or `MIGRATE` of a database. Yields what must be called before each change.

    Raises:
        RegistryError: another one holds it for too long. What SQLAlchemy raises is the caller's to wrap.
    """
    import sqlalchemy
    from sqlalchemy.exc import SQLAlchemyError
    from sqlalchemy.pool import NullPool

    engine = sqlalchemy.create_engine(uri, poolclass=NullPool)
    with engine.connect() as connection:
        with waiting:
            _take(connection, uri, lock, waiting)

        def check() -> None:
            try:
                connection.execute(sqlalchemy.text("SELECT 1"))
            except SQLAlchemyError as error:
                raise LeaseLostError(
                    f"{waiting.who} lost the connection to {shown(uri)}, and with it the lock on the"
                    " registry; the next move undoes what is unfinished",
                    fix="check that the database runs, see phipack history, and run the same command again",
                ) from error

        try:
            yield check
        finally:
            with suppress(SQLAlchemyError):  # the connection is gone, and the lock too
                connection.rollback()


def _take(connection: Connection, uri: str, lock: int, waiting: LockWait) -> None:
    import sqlalchemy
    from sqlalchemy.exc import OperationalError

    names = {"class": _CLASS, "lock": lock}
    settings = {name: value.format(who=f"phipack {waiting.who}"[:63]) for name, value in _SETTINGS.items()}
    started = time.monotonic()
    while True:
        for name, value in settings.items():
            connection.execute(
                sqlalchemy.text("SELECT set_config(:name, :value, true)"), {"name": name, "value": value}
            )
        try:
            connection.execute(sqlalchemy.text("SELECT pg_advisory_xact_lock(:class, :lock)"), names)
        except OperationalError as error:
            connection.rollback()
            if getattr(error.orig, "pgcode", None) != "55P03":  # lock_not_available: another one still holds it
                raise
            holder = connection.execute(sqlalchemy.text(_HOLDER), names).scalar()
            connection.rollback()
            who = str(holder or "another process").removeprefix("phipack ")
            waiting.note(time.monotonic() - started, who, f"the lock on {shown(uri)}")
        else:
            return
