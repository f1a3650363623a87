"""Reading the registry: the rows of a model, and what a reference resolves to, by the fastest way that is right.

| tracking URI | way | `phipack fetch`, start-up included |
|---|---|---|
| SQLite of a known schema | `sqlite_reader.py` | well under 1 s |
| anything else | MLflow's client, `ledger.py` | 2 s and more, most of it `import mlflow` |
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from registry.ledger.ledger import open_ledger
from registry.ledger.sqlite_reader import SqliteReader, has_known_schema
from registry.ledger.tracking import sqlite_path, tracking_uri
from registry.ledger.versions import PRODUCTION, CellVersion, resolve
from registry.store.protocol import Store
from registry.store.uris import DEFAULT_HOME
from targets.errors import RegistryError
from targets.references import Reference, Version


class Reader(Protocol):
    """Returns what is registered, and creates nothing: a registry that does not exist is empty."""

    def describe(self) -> str:
        """Return the registry's URI, without password: messages say which one was read."""
        ...

    def exists(self) -> bool:
        """Return False where the registry was never made. Raises `RegistryError`."""
        ...

    def models(self) -> list[str]:
        """Return the names of all models, sorted. Raises `RegistryError`."""
        ...

    def versions(
        self, model: str | None = None, *, release: Version | None = None, copies: bool = False
    ) -> list[CellVersion]:
        """Return all versions of a model, or of all, sorted by model, cell and release. Raises `RegistryError`.

        `release`: only those of this release. `copies`: also those that MLflow has copied to registered models of other
        people.
        """
        ...

    def in_channel(self, model: str, channel: str, cell: str | None = None) -> list[CellVersion]:
        """Return what a channel points at, of all cells or of one, sorted as `versions`. Raises `RegistryError`."""
        ...


def open_reader(given_uri: str | None, store: Store, home: Path = DEFAULT_HOME) -> Reader:
    """Open the registry for reading: nothing is created or migrated.

    Args:
        given_uri: MLflow's tracking URI; else `MLFLOW_TRACKING_URI`, else the SQLite file in `home`.
        store: the store of its bundles.
        home: the project's folder `.phipack`.

    Raises:
        RegistryError: the URI is malformed.
    """
    path = sqlite_path(tracking_uri(given_uri, home))
    if path is not None and has_known_schema(path):
        return SqliteReader(path)
    return open_ledger(given_uri, store, home)


def resolve_in(
    reader: Reader, reference: Reference, versions: Sequence[CellVersion] | None = None
) -> list[CellVersion]:
    """Return the versions that a reference names, one for each cell.

    `versions`: all of the model's, where they were read already. Raises `RegistryError` saying what there is instead.
    """
    if versions is None:
        if reference.version is not None:
            rows = reader.versions(reference.model, release=reference.version)
        elif reference.range is None:  # what apps ask for, again and again
            rows = reader.in_channel(reference.model, reference.channel or PRODUCTION, reference.cell)
        else:
            rows = []
        with suppress(RegistryError):  # it says what else there is, for which all rows are needed
            return resolve(reference, rows)
        versions = reader.versions(reference.model)
    return resolve(reference, versions, () if versions else reader.models(), registry=reader.describe())
