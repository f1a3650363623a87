"""Whoever changes a catalog on the way, serves an old one or stops the clock is found out."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from devtools.catalogs import Phone, Publisher
from registry.bundle.folder import verify
from registry.catalog.signing import Role, rotate
from registry.publication import refresh
from registry.store.folder import FolderStore
from registry.store.protocol import Document
from targets.errors import FetchError, PublicationError


def serves_an_older_catalog(place: Path, old: Path) -> None:
    shutil.copytree(old / "metadata", place / "metadata", dirs_exist_ok=True)
    newest = max(int(path.name.split(".")[0]) for path in (place / "metadata").glob("*.snapshot.json"))
    (place / "metadata" / f"{newest}.snapshot.json").unlink()


def puts_an_old_snapshot_under_the_new_timestamp(place: Path, old: Path) -> None:
    timestamp = json.loads((place / "metadata/timestamp.json").read_bytes())
    version = timestamp["signed"]["meta"]["snapshot.json"]["version"]
    newest = max((old / "metadata").glob("*.snapshot.json"))
    shutil.copy(newest, place / "metadata" / f"{version}.snapshot.json")


def changes_a_signed_document(place: Path, old: Path) -> None:
    for path in place.glob("targets/phi/channels/*.json"):
        path.write_bytes(path.read_bytes().replace(b"1.1.0", b"1.0.0"))


def changes_the_timestamp(place: Path, old: Path) -> None:
    path = place / "metadata/timestamp.json"
    raw = path.read_bytes()
    assert b'"version":2' in raw
    path.write_bytes(raw.replace(b'"version":2', b'"version":9'))


def changes_a_manifest(place: Path, old: Path) -> None:
    for path in place.glob("blobs/sha256/??/*"):
        if path.read_bytes().startswith(b"{"):
            path.chmod(0o644)
            path.write_bytes(path.read_bytes().replace(b"gguf", b"onnx"))


def changes_a_blob(place: Path, old: Path) -> None:
    for path in place.glob("blobs/sha256/??/*"):
        if not path.read_bytes().startswith(b"{"):
            path.chmod(0o644)
            path.write_bytes(path.read_bytes()[:-1] + b"!")


def makes_the_targets_endless(place: Path, old: Path) -> None:
    for path in place.glob("metadata/*.targets.json"):
        path.write_bytes(path.read_bytes() + b" " * 6_000_000)


@pytest.mark.parametrize(
    "attack",
    [
        serves_an_older_catalog,
        puts_an_old_snapshot_under_the_new_timestamp,
        changes_a_signed_document,
        changes_the_timestamp,
        changes_a_manifest,
        changes_a_blob,
        makes_the_targets_endless,
    ],
)
def test_whoever_serves_the_catalog_can_not_change_it(
    publisher: Publisher, phone: Phone, tmp_path: Path, attack: Callable[[Path, Path], None]
) -> None:
    publisher.release("1.0.0")
    publisher.publish()
    shutil.copytree(publisher.place.root, tmp_path / "old")
    before = phone.fetch()[0]
    publisher.release("1.1.0")
    publisher.publish()
    if attack is serves_an_older_catalog:
        phone.fetch()  # it has seen the newer one
        before = phone.fetch()[0]
    good = tmp_path / "good"
    shutil.copytree(publisher.place.root, good)
    attack(publisher.place.root, tmp_path / "old")
    with pytest.raises(FetchError) as error:
        phone.fetch()
    assert "fix:" in str(error.value)
    there = phone.folder / "bundle"
    verify(type(before)(there, before.manifest))  # what was there is untouched
    shutil.rmtree(publisher.place.root)
    shutil.copytree(good, publisher.place.root)
    assert phone.fetch()[1] == "1.1.0"


def test_another_publishers_catalog_is_not_trusted(publisher: Publisher, phone: Phone, tmp_path: Path) -> None:
    stranger = Publisher(tmp_path / "stranger")
    stranger.release("9.0.0")
    stranger.publish()
    publisher.release("1.0.0")
    publisher.publish()
    phone.fetch()
    shutil.rmtree(publisher.place.root)
    shutil.copytree(stranger.place.root, publisher.place.root)
    with pytest.raises(FetchError, match=r"can't be trusted|rollback or mix-and-match detected"):
        phone.fetch()


FETCH_LATER = """
import datetime, sys, time
from pathlib import Path

shift = datetime.timedelta(days=float(sys.argv[1]))

class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return super().now(tz) + shift

datetime.datetime = Clock
from registry.catalog.client import CatalogTrust, open_catalog
from registry.transfer.http import HttpClient
from targets.errors import FetchError
try:
    with HttpClient() as client:
        trust = CatalogTrust(Path(sys.argv[3]), Path(sys.argv[4]))
        print(sorted(open_catalog(sys.argv[2], client, trust).paths))
except FetchError as error:
    print(error)
"""


def seen_with_clock(days: float, publisher: Publisher, phone: Phone) -> str:
    command = [
        sys.executable,
        "-c",
        FETCH_LATER,
        str(days),
        phone.url,
        str(publisher.root),
        str(phone.folder / "state"),
    ]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_clock_that_is_a_day_off_does_no_harm_and_a_frozen_catalog_expires(
    publisher: Publisher, phone: Phone
) -> None:
    publisher.release("1.0.0")
    publisher.publish()
    for days in (-1, 0, 1):
        assert "phi/releases/1.0.0.json" in seen_with_clock(days, publisher, phone)
    said = seen_with_clock(31, publisher, phone)
    assert "has expired" in said
    assert "check this machine's clock" in said
    refresh(publisher.place, publisher.keys)
    assert "phi/releases/1.0.0.json" in seen_with_clock(1, publisher, phone)


def test_a_publisher_signs_nothing_that_somebody_slipped_in(publisher: Publisher, tmp_path: Path) -> None:
    stranger = Publisher(tmp_path / "stranger")
    stranger.release("9.0.0")
    stranger.publish()
    shutil.copytree(stranger.place.root, publisher.place.root)
    publisher.release("1.0.0")
    with pytest.raises(PublicationError, match="not signed by the timestamp keys"):
        publisher.publish()


def test_a_damaged_catalog_is_published_again_as_the_error_says(publisher: Publisher, phone: Phone) -> None:
    """Also to phones that know the one before: its versions were higher."""
    publisher.release("1.0.0")
    publisher.publish()
    refresh(publisher.place, publisher.keys)
    phone.fetch()
    (document,) = publisher.place.root.glob("targets/phi/channels/*.json")
    document.write_bytes(b"{")
    with pytest.raises(PublicationError, match="digest mismatch") as error:
        publisher.publish()
    assert "remove metadata/, run phipack keys rotate timestamp and keys rotate snapshot" in str(error.value)
    shutil.rmtree(publisher.place.root / "metadata")
    roles: tuple[Role, ...] = ("timestamp", "snapshot")
    for role in roles:
        publisher.keys = rotate(publisher.keys, role)
    publisher.publish()
    assert phone.fetch()[1] == "1.0.0"


def test_what_the_clients_own_code_refuses_is_not_reported_as_published(
    publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written, and changed before it is looked at again: as by a cache or another tool in front of the store."""
    publisher.release("1.0.0")
    real = FolderStore.read_document

    def changed(self: FolderStore, name: str) -> Document | None:
        found = real(self, name)
        return Document(b"<html>", found.tag) if found is not None and name == "metadata/timestamp.json" else found

    monkeypatch.setattr(FolderStore, "read_document", changed)
    with pytest.raises(PublicationError, match="it was written, and no client accepts it"):
        publisher.publish()
