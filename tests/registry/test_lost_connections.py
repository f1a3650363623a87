"""A server or a database that is away in mid-promotion: nothing torn, a clear error, and the next try succeeds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from devtools.bundles import make_bundle
from devtools.services.postgresql import PostgresqlServer
from registry.ledger import mlflow_client
from registry.ledger.lease import LeaseLostError, Timing
from registry.ledger.ledger import Ledger
from registry.promotion import history, rollback
from registry.store.folder import FolderStore
from targets.errors import RegistryError, RegistryUnreachableError
from tests.support.databases import POSTGRESQL, SERVED, SERVER, Databases, KeptRegistry, keep_registry
from tests.support.leases import CELLS, lease_tags, standing, to
from tests.support.registrations import entry
from tests.support.tcp_proxy import Cutting, proxy_before

DATABASES = (SERVER,)


@pytest.fixture(autouse=True)
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Aliases move one after the other, so that it is known which have moved when the server goes away."""
    monkeypatch.setattr(mlflow_client, "_CONNECTIONS", 1)


def release_two(ledger: Ledger, home: Path) -> None:
    """Register releases 1.0.0 and 1.1.0 of two cells, and promote 1.0.0 to production."""
    bundle = make_bundle(home / "bundle")
    ledger.store.add_bundle(bundle)
    for version in ("1.0.0", "1.1.0"):
        for cell in CELLS:
            ledger.register(entry(bundle, version, cell, target=cell))
    to(ledger, "1.0.0")


@pytest.fixture(scope="module")
def kept(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> KeptRegistry:
    return keep_registry(databases, tmp_path_factory.mktemp("two"), release_two)


@pytest.fixture
def released(databases: Databases, kept: KeptRegistry, tmp_path: Path) -> Ledger:
    """What `release_two` makes."""
    return kept.again(databases, tmp_path / "home")


@pytest.fixture
def store(released: Ledger) -> FolderStore:
    """Its store."""
    assert isinstance(released.store, FolderStore)
    return released.store


@pytest.fixture
def proxy(released: Ledger) -> Iterator[Cutting]:
    """What stands before the server."""
    with proxy_before(released.uri) as proxy:
        yield proxy


class Interrupted(Ledger):
    """A ledger to which something happens after the first alias has moved."""

    timing: ClassVar[Timing] = Timing(beat_seconds=0.3, fresh_seconds=30, stale_seconds=200, release_seconds=30)
    happens: ClassVar[object] = None

    def point(self, registered_model: str, channel: str, number: int | None) -> None:
        super().point(registered_model, channel, number)
        happens, type(self).happens = type(self).happens, None
        if callable(happens):
            happens()


class Hasty(Interrupted):
    """One that soon takes its lease for lost."""

    timing: ClassVar[Timing] = Timing(beat_seconds=0.3, fresh_seconds=1, stale_seconds=200, release_seconds=30)


def test_a_server_that_is_away_for_a_moment_finds_the_move_taken_back(
    released: Ledger, proxy: Cutting, store: FolderStore
) -> None:
    Interrupted.happens = lambda: proxy.go_away(6)  # MLflow's client itself tries for about 3 s
    ledger = Interrupted(proxy.url, store)
    with pytest.raises(RegistryUnreachableError, match="is unreachable"):
        to(ledger, "1.1.0")
    assert standing(released) == dict.fromkeys(CELLS, "1.0.0")
    assert [move.state for move in history(released, "phi")] == ["undone", "done"]
    assert lease_tags(released) == ["phipack.lease.holder"]
    to(ledger, "1.1.0")
    assert standing(released) == dict.fromkeys(CELLS, "1.1.0")


def test_who_has_lost_the_lease_still_lets_go_of_it(
    released: Ledger, proxy: Cutting, store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one takes back what was half-way, at once: the claim is gone, and need not be waited for."""
    Hasty.happens = lambda: proxy.go_away(8)
    with pytest.raises(LeaseLostError):
        to(Hasty(proxy.url, store), "1.1.0")
    assert sorted(standing(released).values()) == ["1.0.0", "1.1.0"]
    assert lease_tags(released) == ["phipack.lease.holder"]
    slept, sleep = [0.0], time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: (slept.append(seconds), sleep(seconds)))
    to(Interrupted(proxy.url, store), "1.1.0", who="next")
    assert sum(slept) < Interrupted.timing.stale_seconds / 2
    assert standing(released) == dict.fromkeys(CELLS, "1.1.0")
    assert [(move.who, move.state) for move in history(released, "phi")] == [
        ("next", "done"),
        ("ann", "undone"),
        ("ann", "done"),
    ]


def test_a_record_that_was_made_twice_moves_nothing(released: Ledger, proxy: Cutting, store: FolderStore) -> None:
    """The answer to its making was lost: MLflow's client asked again."""
    proxy.answer_to, proxy.left = b"/runs/create", 1
    to(Ledger(proxy.url, store), "1.1.0")
    assert proxy.met == 1
    assert sorted(move.state for move in history(released, "phi")) == ["done", "done", "unfinished"]
    assert standing(released) == dict.fromkeys(CELLS, "1.1.0")
    rollback(released, "phi", "production", who="bob")
    assert standing(released) == dict.fromkeys(CELLS, "1.0.0")
    assert sorted(move.state for move in history(released, "phi")) == ["done", "done", "done", "undone"]


@pytest.mark.parametrize("asked", [b"/registered-models/alias", b"/runs/update", b"/set-experiment-tag"])
def test_an_answer_that_is_lost_is_asked_for_again(
    released: Ledger, proxy: Cutting, store: FolderStore, asked: bytes
) -> None:
    proxy.answer_to, proxy.left = asked, 1
    to(Ledger(proxy.url, store), "1.1.0")
    assert proxy.met == 1
    assert standing(released) == dict.fromkeys(CELLS, "1.1.0")
    assert [move.state for move in history(released, "phi")] == ["done", "done"]
    assert lease_tags(released) == ["phipack.lease.holder"]


def test_a_tracking_server_that_loses_its_database_tears_nothing(
    released: Ledger, store: FolderStore, postgresql: PostgresqlServer
) -> None:
    Interrupted.happens = lambda: postgresql.cut_connections(SERVED)
    ledger = Interrupted(released.uri, store)
    try:
        to(ledger, "1.1.0")
    except RegistryError:
        assert standing(released) == dict.fromkeys(CELLS, "1.0.0")
    else:
        assert standing(released) == dict.fromkeys(CELLS, "1.1.0")
    to(ledger, "1.1.0")
    assert standing(released) == dict.fromkeys(CELLS, "1.1.0")
    assert lease_tags(released) == ["phipack.lease.holder"]


@pytest.mark.parametrize("databases", [POSTGRESQL], indirect=True)
def test_who_loses_the_database_stops_and_the_next_one_takes_it_back(
    released: Ledger, store: FolderStore, postgresql: PostgresqlServer
) -> None:
    database = released.uri.rpartition("/")[2]
    Interrupted.happens = lambda: postgresql.cut_connections(database)
    with pytest.raises(LeaseLostError, match=r"ann lost the connection to .*, and with it the lock") as caught:
        to(Interrupted(released.uri, store), "1.1.0")
    assert postgresql.password not in str(caught.value)
    assert sorted(standing(released).values()) == ["1.0.0", "1.1.0"]
    to(released, "1.1.0", who="next")
    assert standing(released) == dict.fromkeys(CELLS, "1.1.0")
    assert [move.state for move in history(released, "phi")] == ["done", "undone", "done"]
