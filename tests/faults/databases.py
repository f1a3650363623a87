"""Registries in PostgreSQL: each case has a database of its own, made from the slot's prepared one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from devtools.services.postgresql import PostgresqlServer, running_postgresql
from tests.faults.channels import prepare_releases
from tests.faults.ground import Ground

_Result = TypeVar("_Result")


@contextmanager
def start_postgresql() -> Iterator[PostgresqlServer]:
    """Run a server. Everybody may enter its folder: run by root, the server belongs to another user."""
    with tempfile.TemporaryDirectory(prefix="phipack-walk-") as name:
        Path(name).chmod(0o711)
        with running_postgresql(Path(name) / "postgresql", durable=False) as server:
            yield server


def prepare_releases_there(ground: Ground) -> None:
    """As with SQLite, in the slot's prepared database."""
    server = _server(ground)
    os.environ["MLFLOW_TRACKING_URI"] = server.make_database(_database(ground, "prepared"))
    prepare_releases(ground)


def fresh_database(ground: Ground) -> None:
    """The case's database as it was prepared."""
    server, case = _server(ground), _database(ground, "case")
    server.drop_database(case)
    server.make_database(case, template=_database(ground, "prepared"))


def there(step: Callable[[Ground], _Result]) -> Callable[[Ground], _Result]:
    """Do a step in the case's database."""

    def in_the_database(ground: Ground) -> _Result:
        os.environ["MLFLOW_TRACKING_URI"] = _server(ground).uri(_database(ground, "case"))
        return step(ground)

    return in_the_database


def _server(ground: Ground) -> PostgresqlServer:
    assert ground.postgresql is not None
    return ground.postgresql


def _database(ground: Ground, kind: str) -> str:
    return f"{kind}_{ground.folder.parent.name}"
