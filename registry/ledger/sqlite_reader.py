"""Versions read straight from MLflow's SQLite file: 10 ms, where importing MLflow and opening its store takes 2 s.

Only reading, only the schema revisions listed here (MLflow names its schema in `alembic_version`); for any other, and
for every other kind of server, `reader.py` uses MLflow's own client. Tests hold the two to the same rows.
"""

from __future__ import annotations

import sqlite3
import urllib.parse
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from registry.ledger.versions import MODEL_TAG, RELEASE_TAG, CellVersion, is_at_home, settled, version_from_tags
from targets.errors import RegistryError
from targets.references import Version

KNOWN_REVISIONS = frozenset({"dc11669786a5"})  # MLflow 3.17
_BUSY_SECONDS = 10.0

_VERSIONS = """
SELECT v.name, v.version, v.creation_time, t."key", t.value
FROM model_versions v JOIN model_version_tags t USING (workspace, name, version)
WHERE v.workspace = 'default' AND v.current_stage != 'Deleted_Internal'
  AND EXISTS (SELECT 1 FROM model_version_tags m WHERE m.workspace = v.workspace AND m.name = v.name
              AND m.version = v.version AND m."key" = :tag AND (:model IS NULL OR m.value = :model))
"""
_ALIASES = "SELECT name, version, alias FROM registered_model_aliases WHERE workspace = 'default'"
_HOMES = """SELECT name, "key", value FROM registered_model_tags WHERE workspace = 'default'"""
_MODELS = """
SELECT DISTINCT value FROM registered_model_tags WHERE workspace = 'default' AND "key" = :tag ORDER BY value
"""


@dataclass(frozen=True)
class SqliteReader:
    """The rows of a SQLite file of a known revision; none where the file does not exist yet."""

    path: Path

    def describe(self) -> str:
        """Return the tracking URI."""
        return f"sqlite:///{self.path}"

    def exists(self) -> bool:
        """Return True where the file exists."""
        return self.path.exists()

    def models(self) -> list[str]:
        """Return the names of all models, sorted. Raises `RegistryError`."""
        with self._connected() as connection:
            return [value for (value,) in connection.execute(_MODELS, {"tag": MODEL_TAG})] if connection else []

    def versions(
        self, model: str | None = None, *, release: Version | None = None, copies: bool = False
    ) -> list[CellVersion]:
        """Return all rows of a model, or of all models, as the ledger does. Raises `RegistryError`."""
        with self._connected() as connection:
            if connection is None:
                return []
            tags: dict[tuple[str, int, int], dict[str, str]] = {}
            for name, number, created, key, value in connection.execute(_VERSIONS, {"tag": MODEL_TAG, "model": model}):
                tags.setdefault((name, number, created), {})[key] = value
            channels: dict[tuple[str, int], list[str]] = {}
            for name, number, alias in connection.execute(_ALIASES):
                channels.setdefault((name, number), []).append(alias)
            homes: dict[str, dict[str, str]] = {}
            for name, key, value in connection.execute(_HOMES):
                homes.setdefault(name, {})[key] = value
        return settled(
            [
                version_from_tags(name, number, row, created_ms=created, channels=channels.get((name, number), ()))
                for (name, number, created), row in tags.items()
                if RELEASE_TAG in row
                and (release is None or row[RELEASE_TAG] == str(release))
                and (copies or is_at_home(row, homes.get(name, {})))
            ]
        )

    def in_channel(self, model: str, channel: str, cell: str | None = None) -> list[CellVersion]:
        """Return what a channel points at, of all cells or of one. Raises `RegistryError`."""
        return [row for row in self.versions(model) if channel in row.channels and cell in (None, row.cell)]

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection | None]:
        if not self.path.exists():
            yield None
            return
        try:
            with closing(open_read_only(self.path)) as connection:
                connection.execute("BEGIN")  # both queries see one state
                yield connection
        except sqlite3.Error as error:
            raise RegistryError(
                f"{self.path} can't be read as MLflow's database: {error}", fix="use another one with --tracking-uri"
            ) from error


def open_read_only(path: Path) -> sqlite3.Connection:
    """Open without ever writing, creating or migrating."""
    uri = f"file:{urllib.parse.quote(str(path))}?mode=ro"
    return sqlite3.connect(uri, uri=True, timeout=_BUSY_SECONDS, isolation_level=None)


def has_known_schema(path: Path) -> bool:
    """Return True where the file does not exist, or is MLflow's of a revision that this module knows."""
    if not path.exists():
        return True
    try:
        with closing(open_read_only(path)) as connection:
            return {revision for (revision,) in connection.execute("SELECT version_num FROM alembic_version")} <= (
                KNOWN_REVISIONS
            )
    except sqlite3.Error:
        return False
