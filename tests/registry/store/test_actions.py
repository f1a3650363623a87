"""Action records in a folder and on a real S3 server: the first one counts, and only while its bundle is whole."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devtools.bundles import CHECKPOINT, make_bundle
from registry.bundle.folder import Bundle
from registry.files.digests import digest_of_bytes
from registry.store.actions import (
    ActionRecord,
    has_records,
    parse_record,
    read_action,
    read_record,
    record_names,
    write_action,
)
from registry.store.folder import FolderStore
from registry.store.protocol import Store, caching_of
from targets.errors import StoreError
from tests.support.strangers import be_a_stranger

KEY = "0123456789abcdef" * 2


def record_of(bundle: Bundle | None, machine: str = "here", key: str = KEY) -> ActionRecord:
    return ActionRecord(
        schema="phipack.action/1",
        action="build" if bundle else "checkpoint",
        key=key,
        checkpoint=CHECKPOINT,
        bundle=bundle.digest if bundle else None,
        machine=machine,
        seconds=1.5,
        content={"a": [1, "é"]},
    )


def test_a_record_is_read_back_as_it_was_written(bundle: Bundle, any_store: Store) -> None:
    record = record_of(bundle)
    assert read_action(any_store, "build", KEY) is None
    assert not has_records(any_store, "build")
    any_store.add_bundle(bundle)
    assert write_action(any_store, record) == record
    assert read_action(any_store, "build", KEY) == record
    assert read_action(any_store, "validate", KEY) is None
    assert has_records(any_store, "build")
    assert list(record_names(any_store)) == [f"actions/build/{KEY}.json"]


def test_it_counts_only_while_the_store_has_all_of_its_bundle(bundle: Bundle, any_store: Store) -> None:
    record = record_of(bundle)
    write_action(any_store, record)
    assert read_action(any_store, "build", KEY) is None  # nothing of it is there
    assert read_record(any_store, record.document_name) == record
    any_store.add_bundle(bundle)
    assert read_action(any_store, "build", KEY) == record
    any_store.remove(f"sha256:{bundle.manifest.files[0].sha256}", seconds=0)
    assert read_action(any_store, "build", KEY) is None


def test_of_several_writers_at_once_one_records(bundle: Bundle, any_store: Store) -> None:
    any_store.add_bundle(bundle)
    with ThreadPoolExecutor(8) as pool:
        counting = set(pool.map(lambda n: write_action(any_store, record_of(bundle, str(n))).to_bytes(), range(8)))
    kept = read_action(any_store, "build", KEY)
    assert kept is not None
    assert counting == {kept.to_bytes()}


@pytest.mark.parametrize(
    "junk",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"[" * 100_000,
        b'{"schema":"phipack.action/2"}',
        record_of(None, key="f" * 32).to_bytes(),
        json.dumps(json.loads(record_of(None).to_bytes()) | {"seconds": "1"}).encode(),
    ],
    ids=["empty", "torn", "list", "null", "deep", "later schema", "another key", "text for a number"],
)
def test_what_is_no_record_counts_as_none_and_is_replaced(any_store: Store, junk: bytes) -> None:
    record = record_of(None)
    assert any_store.write_document(record.document_name, junk, replacing=None)
    assert read_action(any_store, "checkpoint", KEY) is None
    assert write_action(any_store, record) == record
    assert read_action(any_store, "checkpoint", KEY) == record


def test_a_record_of_a_bundle_that_is_gone_is_replaced(bundle: Bundle, any_store: Store, tmp_path: Path) -> None:
    any_store.add_bundle(bundle)
    gone = record_of(make_bundle(tmp_path / "gone", {"model.gguf": b"gone"}))
    write_action(any_store, gone)
    assert write_action(any_store, record_of(bundle)) == record_of(bundle)
    assert read_action(any_store, "build", KEY) == record_of(bundle)


def test_documents_are_listed_by_age_and_removed_by_age(any_store: Store) -> None:
    for key in (KEY, "f" * 32):
        write_action(any_store, record_of(None, key=key))
    any_store.write_document("metadata/1.root.json", b"{}", replacing=None)
    names = sorted(any_store.documents("actions/"))
    assert names == [f"actions/checkpoint/{key}.json" for key in (KEY, "f" * 32)]
    assert list(any_store.documents("actions/", seconds=3600)) == []
    assert not any_store.remove_document(names[0], seconds=3600)
    assert any_store.remove_document(names[0], seconds=0)
    assert not any_store.remove_document(names[0], seconds=0)
    assert list(any_store.documents("actions/")) == names[1:]


@given(st.binary(max_size=300))
def test_no_bytes_break_the_reader(raw: bytes) -> None:
    assert parse_record(f"actions/checkpoint/{KEY}.json", raw) is None


def test_the_bytes_of_a_record_are_one(bundle: Bundle) -> None:
    raw = record_of(bundle).to_bytes()
    assert json.dumps(json.loads(raw), sort_keys=True, separators=(",", ":"), ensure_ascii=False) + "\n" == raw.decode()
    assert digest_of_bytes(raw) == digest_of_bytes(record_of(bundle).to_bytes())


def test_records_are_not_cached_by_a_cdn() -> None:
    assert caching_of(f"actions/build/{KEY}.json") == "no-cache"


def test_records_that_everybody_could_have_written_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FolderStore(tmp_path / "store")
    write_action(store, record_of(None))
    for folder in (store.root / "actions", store.root / "actions" / "checkpoint"):
        assert not folder.stat().st_mode & 0o002
        folder.chmod(0o777)
        with pytest.raises(StoreError, match="can be written by everybody"):
            read_action(store, "checkpoint", KEY)
        with pytest.raises(StoreError, match="can be written by everybody"):
            write_action(store, record_of(None))
        folder.chmod(0o775)
    be_a_stranger(monkeypatch)  # of the store's group, say
    assert read_action(store, "checkpoint", KEY) == record_of(None)


def test_a_document_larger_than_any_of_ours_is_refused(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    write_action(store, record_of(None))
    with (store.root / record_of(None).document_name).open("wb") as file:
        file.truncate((64 << 20) + 1)
    with pytest.raises(StoreError, match="more than any document of phipack"):
        read_action(store, "checkpoint", KEY)
