"""The schema of MLflow's database, where MLflow has refused it: older, newer, or a migration that broke off.

MLflow names the revision of its schema in the database, and knows all that came before its own. SQLite keeps each step
of a migration at once, so what broke off there stays half-way.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from registry.ledger.tracking import sqlite_path
from targets.errors import RegistryError
from targets.installation import install_command
from targets.secrets import shown


def schema_trouble(uri: str, reason: str, *, while_migrating: bool) -> RegistryError | None:
    """Return the error to raise where a database's schema is not that of the MLflow here; else None.

    Args:
        uri: the database.
        reason: what MLflow, or the database, has said.
        while_migrating: the database has refused a statement, rather than MLflow the database.
    """
    found, known = _revision(uri), _known_revisions()
    if found == known[0]:
        return None
    place = f"MLflow's database {shown(uri)}"
    if found is not None and found not in known:
        return RegistryError(
            f"{place} has a schema, {found}, that the MLflow installed here does not know: a later one made it",
            fix=f"install the phipack and MLflow that made it, or later ones: {install_command('registry')}",
        )
    if not while_migrating:
        return RegistryError(
            f"{place} has the schema of an earlier MLflow, {found}, not {known[0]}",
            fix=f"copy the database, then run mlflow db upgrade {shlex.quote(shown(uri))}",
        )
    path = None if (found_path := sqlite_path(uri)) is None else str(found_path)
    away = "drop the database and create it again" if path is None else shlex.join(["mv", path, f"{path}.broken"])
    return RegistryError(
        f"{place} is between two schemas: a migration broke off, or another program is at it: {reason}",
        fix="if no other program is at it, restore a copy of it, or, if nothing was ever registered there: "
        f"{away}; then run the same command again",
    )


def _revision(uri: str) -> str | None:
    """Return the revision that a database names. What SQLAlchemy raises passes."""
    import sqlalchemy
    from alembic.migration import MigrationContext

    engine = sqlalchemy.create_engine(uri)
    try:
        with engine.connect() as connection:
            return MigrationContext.configure(connection).get_current_revision()
    finally:
        engine.dispose()


def _known_revisions() -> list[str]:
    """Return the revisions that the installed MLflow knows, its own first."""
    from alembic.script import ScriptDirectory
    from mlflow.store import db_migrations

    folder = Path(next(iter(db_migrations.__path__)))
    return [script.revision for script in ScriptDirectory(str(folder)).walk_revisions()]
