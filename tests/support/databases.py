"""Where a ledger can live, each for real: a SQLite file, PostgreSQL itself, and a tracking server on PostgreSQL.

Migrating a new database takes MLflow seconds, so each kind does it once and then copies: a file, or PostgreSQL's
`CREATE DATABASE … TEMPLATE`. The tracking server has one database, which is made again from a template below it: its
pool asks every connection whether it lives before it uses it.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from devtools.services.mlflow_server import MlflowServer
from devtools.services.postgresql import PostgresqlServer
from registry.ledger.ledger import Ledger, open_ledger
from registry.ledger.tracking import sqlite_path
from registry.store.folder import FolderStore

SQLITE, POSTGRESQL, SERVER = "sqlite", "postgresql", "server"
# `make test` leaves out PostgreSQL without a server: the server's own database is PostgreSQL too.
EVERY = os.environ.get("DATABASES") == "all"
EVERYWHERE = (SQLITE, POSTGRESQL, SERVER) if EVERY else (SQLITE, SERVER)
MIGRATED, SERVED = "migrated", "served"
_numbers = itertools.count()


class Databases(Protocol):
    """One kind of place."""

    kind: str

    def fresh(self, folder: Path, template: str | None = None) -> str:
        """Return the tracking URI of an empty registry, or of one as `template` was; `folder`: where files may lie."""
        ...

    def keep(self, uri: str) -> str:
        """Keep the registry at `uri` as it is; gives the template's name."""
        ...


@dataclass(frozen=True)
class SqliteDatabases:
    """Files; a template is a path."""

    migrated: Path
    kind: str = SQLITE

    def fresh(self, folder: Path, template: str | None = None) -> str:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(template or self.migrated, folder / "mlflow.db")
        return f"sqlite:///{folder}/mlflow.db"

    def keep(self, uri: str) -> str:
        path = sqlite_path(uri)
        assert path is not None
        return str(path)


@dataclass(frozen=True)
class PostgresqlDatabases:
    """Databases of one server, reached directly."""

    server: PostgresqlServer
    kind: str = POSTGRESQL

    def fresh(self, folder: Path, template: str | None = None) -> str:
        return self.server.make_database(f"test_{next(_numbers)}", template=template or MIGRATED)

    def keep(self, uri: str) -> str:
        return template_of(self.server, uri.rpartition("/")[2])


@dataclass(frozen=True)
class ServedDatabases:
    """The one database of a tracking server."""

    postgresql: PostgresqlServer
    mlflow: MlflowServer
    kind: str = field(default=SERVER)

    def fresh(self, folder: Path, template: str | None = None) -> str:
        self.postgresql.drop_database(SERVED)
        self.postgresql.make_database(SERVED, template=template or MIGRATED)
        return self.mlflow.uri

    def keep(self, uri: str) -> str:
        return template_of(self.postgresql, SERVED)


@dataclass(frozen=True)
class KeptRegistry:
    """A registry that is made once, and as it was made for every test: the database is copied, the store put back."""

    template: str
    store: FolderStore
    kept: Path

    def again(self, databases: Databases, home: Path) -> Ledger:
        """Return it, its database in `home`."""
        shutil.rmtree(self.store.root, ignore_errors=True)
        shutil.copytree(self.kept, self.store.root, symlinks=True)
        return open_ledger(databases.fresh(home, self.template), self.store)


def keep_registry(databases: Databases, home: Path, make: Callable[[Ledger, Path], object]) -> KeptRegistry:
    """Make a registry by `make`, which gets an empty one and a folder for its bundles, and keep it."""
    store = FolderStore(home / "store")
    ledger = open_ledger(databases.fresh(home / "first"), store)
    make(ledger, home)
    shutil.copytree(store.root, home / "kept", symlinks=True)
    return KeptRegistry(databases.keep(ledger.uri), store, home / "kept")


def template_of(server: PostgresqlServer, database: str) -> str:
    """Copy a database that others are connected to, and give the copy's name."""
    name = f"template_{next(_numbers)}"
    server.cut_connections(database)
    server.make_database(name, template=database)
    return name
