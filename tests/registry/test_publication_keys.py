"""The publisher's keys and the root that phones trust: rotated, retired, expired, damaged."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest import mock

import pytest

from devtools.catalogs import Phone, Publisher
from registry.catalog.signing import KeyFolder, open_keys, renew_root, rotate
from registry.publication import refresh
from registry.store.folder import FolderStore
from targets.errors import FetchError, KeysError


def test_what_was_trusted_once_needs_no_root_again(publisher: Publisher, phone: Phone) -> None:
    publisher.release("1.0.0")
    publisher.publish()
    phone.fetch()
    phone.root = None
    assert phone.fetch()[1] == "1.0.0"


def test_without_a_root_nothing_is_trusted(publisher: Publisher, phone: Phone) -> None:
    publisher.release("1.0.0")
    publisher.publish()
    phone.root = None
    with pytest.raises(FetchError, match="no root is trusted") as error:
        phone.fetch()
    assert "--root" in str(error.value)


def test_a_damaged_file_of_the_trusted_root_is_named(publisher: Publisher, phone: Phone, tmp_path: Path) -> None:
    publisher.release("1.0.0")
    publisher.publish()
    phone.fetch()
    phone.root = tmp_path / "1.root.json"
    phone.root.write_bytes(publisher.root.read_bytes().replace(b"root", b"r00t"))
    with pytest.raises(FetchError, match=rf"root file {phone.root} is damaged") as error:
        phone.fetch()
    assert "publisher" in str(error.value.fix)
    phone.root = None
    (kept,) = (phone.folder / "state" / "catalogs").glob("*/metadata/root.json")
    kept.write_bytes(b"{}")
    with pytest.raises(FetchError, match=rf"{kept}, is damaged") as error:
        phone.fetch()
    assert "--root" in str(error.value.fix)
    phone.root = publisher.root
    assert phone.fetch()[1] == "1.0.0"


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "root"])
def test_keys_are_rotated_under_phones_that_know_the_first_root_only(
    publisher: Publisher, phone: Phone, role: str
) -> None:
    publisher.release("1.0.0")
    publisher.publish()
    phone.fetch()
    publisher.keys = rotate(publisher.keys, role)  # type: ignore[arg-type]
    publisher.release("1.1.0")
    publisher.publish()
    assert phone.fetch()[1] == "1.1.0"
    new_phone = Phone(phone.folder.parent / "new phone", phone.url, publisher.root)
    assert new_phone.fetch()[1] == "1.1.0"


def test_what_a_retired_key_signs_is_refused(publisher: Publisher, phone: Phone, tmp_path: Path) -> None:
    publisher.release("1.0.0")
    publisher.publish()
    shutil.copytree(publisher.folder / "keys", tmp_path / "old keys")
    shutil.copytree(publisher.place.root, tmp_path / "old place")
    old_keys, old_place = open_keys(tmp_path / "old keys"), FolderStore(tmp_path / "old place")
    publisher.keys = rotate(publisher.keys, "targets")
    publisher.publish()
    phone.fetch()
    with pytest.raises(KeysError, match="has root 2"):
        refresh(publisher.place, open_keys(tmp_path / "old keys"))
    for _ in range(3):
        refresh(old_place, old_keys)  # newer by its numbers
    shutil.copytree(old_place.root / "metadata", publisher.place.root / "metadata", dirs_exist_ok=True)
    with pytest.raises(FetchError, match="can't be trusted"):
        phone.fetch()


def expire_root(publisher: Publisher, days: int) -> None:
    """Sign the root again, to expire so many days from now."""
    expires = (datetime.now(UTC) + timedelta(days=days)).replace(microsecond=0)
    with mock.patch.object(KeyFolder, "expiry", return_value=expires):
        publisher.keys = renew_root(publisher.keys)


@pytest.mark.parametrize("days", [0, -10])
def test_nothing_is_published_with_an_expired_root(publisher: Publisher, phone: Phone, days: int) -> None:
    publisher.release("1.0.0")
    publisher.publish()
    expire_root(publisher, days)
    before = publisher.place.read_document("metadata/timestamp.json")
    for act in (publisher.publish, lambda: refresh(publisher.place, publisher.keys)):
        with pytest.raises(KeysError, match=r"the root in .* expired on") as caught:
            act()
        assert "phipack keys show --renew" in caught.value.fix
    assert publisher.place.read_document("metadata/timestamp.json") == before
    publisher.keys = renew_root(publisher.keys)
    publisher.publish()
    assert phone.fetch()[1] == "1.0.0"


def test_a_root_that_will_expire_is_warned_of_from_a_quarter_of_its_term_on(publisher: Publisher) -> None:
    publisher.release("1.0.0")
    for days, warned in ((92, False), (91, True), (5, True)):
        expire_root(publisher, days)
        notices: list[str] = []
        publisher.publish()
        refresh(publisher.place, publisher.keys, on_progress=lambda event, into=notices: into.append(event.text))
        assert bool(notices) == warned
        assert all("the root expires on" in text and "keys show --renew" in text for text in notices)


def test_a_phone_that_finds_an_expired_root_names_the_remedy_that_helps(publisher: Publisher, phone: Phone) -> None:
    publisher.release("1.0.0")
    publisher.publish()
    expire_root(publisher, -1)
    content = (publisher.folder / "keys" / "2.root.json").read_bytes()
    assert publisher.place.write_document("metadata/2.root.json", content, replacing=None)
    with pytest.raises(FetchError, match="has expired") as caught:
        phone.fetch()
    assert "phipack keys show --renew, then phipack publish --refresh" in caught.value.fix
