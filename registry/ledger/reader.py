"""Reading the registry: the rows of a model, and what a reference comes to, by the fastest road that is right.

| tracking URI | road | `phipack fetch`, start-up included |
|---|---|---|
| SQLite of a known schema | `sqlite_reader.py` | well under 1 s |
| anything else | MLflow's client, `ledger.py` | 2 s and more, most of it `import mlflow` |
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from registry.ledger.ledger import open_ledger
from registry.ledger.sqlite_reader import SqliteReader, has_known_schema
from registry.ledger.tracking import DEFAULT_HOME, sqlite_path, tracking_uri
from registry.ledger.versions import PRODUCTION, CellVersion, resolve
from registry.store.protocol import Store
from targets.references import Reference


class Reader(Protocol):
    """Gives what is registered."""

    def models(self) -> list[str]:
        """Names of all models, sorted."""
        ...

    def versions(self, model: str | None = None) -> list[CellVersion]:
        """All versions of a model, or of all, sorted by model, cell and release. Raises `RegistryError`."""
        ...

    def standing(self, model: str, cell: str, channel: str) -> CellVersion | None:
        """What a cell's channel points at, None where that is nothing. Raises `RegistryError`."""
        ...


def open_reader(given_uri: str | None, store: Store, home: Path = DEFAULT_HOME) -> Reader:
    """Open the registry for reading: no lock, no migration, nothing created. Raises `RegistryError`."""
    path = sqlite_path(tracking_uri(given_uri, home))
    if path is not None and has_known_schema(path):
        return SqliteReader(path)
    return open_ledger(given_uri, store, home)


def resolve_in(
    reader: Reader, reference: Reference, versions: Sequence[CellVersion] | None = None
) -> list[CellVersion]:
    """Give the versions that a reference names, one a cell. Raises `RegistryError` saying what there is instead.

    `versions`: all of the model's, where they were read already.
    """
    if versions is None:
        by_channel = reference.version is None and reference.range is None
        if by_channel and reference.cell is not None:  # what apps ask for, again and again
            found = reader.standing(reference.model, reference.cell, reference.channel or PRODUCTION)
            if found is not None:
                return [found]
        versions = reader.versions(reference.model)
    return resolve(reference, versions, () if versions else reader.models())
