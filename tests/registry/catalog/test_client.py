"""The client of a catalog next to other clients on the same machine."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from devtools.catalogs import Publisher
from devtools.servers import serving
from registry.catalog import client as catalog_client
from registry.catalog.client import CatalogTrust, open_catalog
from registry.files import lock_wait
from registry.files.lock import file_lock
from registry.transfer.http import HttpClient
from targets.errors import FetchUnreachableError
from targets.progress import Event, Notice, Phase


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    """Has published 1.0.0."""
    made = Publisher(tmp_path / "publisher")
    made.release("1.0.0")
    made.publish()
    return made


def test_who_waits_for_another_fetch_says_so_and_goes_on(
    publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock_wait, "NOTICE_SECONDS", 0.0)
    trust = CatalogTrust(publisher.root, tmp_path / "state")
    noticed = threading.Event()
    events: list[Event] = []

    def receive(event: Event) -> None:
        if isinstance(event, Phase):
            return
        events.append(event)
        noticed.set()

    with serving(publisher.place.root) as url, HttpClient() as client:
        open_catalog(url, client, trust)
        (lock,) = (tmp_path / "state").glob("catalogs/*/lock")
        release = threading.Event()

        def hold() -> None:
            with file_lock(lock):
                release.set()
                noticed.wait(60)

        holder = threading.Thread(target=hold)
        holder.start()
        release.wait(60)
        assert open_catalog(url, client, trust, receive).paths
        holder.join()
    assert events == [Notice(f"waiting for another phipack, who holds the metadata of {url}")]


def test_who_waits_too_long_gives_up_and_says_for_what(
    publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trust = CatalogTrust(publisher.root, tmp_path / "state")
    with serving(publisher.place.root) as url, HttpClient() as client:
        open_catalog(url, client, trust)
        (lock,) = (tmp_path / "state").glob("catalogs/*/lock")
        monkeypatch.setattr(catalog_client, "LOCK_SECONDS", 0.0)
        with (
            file_lock(lock),
            pytest.raises(FetchUnreachableError, match=f"another phipack held the metadata of {url} for 0 s"),
        ):
            open_catalog(url, client, trust)
