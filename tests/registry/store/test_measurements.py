"""Measurements of a bundle in the store: added once, by several at once, and refused where they are another's."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from registry.store import measurements
from registry.store.folder import FolderStore
from registry.store.measurements import MEASUREMENTS_LIMIT, add_measurements, read_measurements
from registry.store.protocol import Store
from targets.errors import MeasurementError, PhipackError, StoreError
from tests.support.measurements import BUNDLE, measurement

OTHER = "sha256:" + "b" * 64
NAME = f"measurements/{'a' * 64}.json"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return FolderStore(tmp_path / "store")


def test_measurements_are_kept_once(store: Store) -> None:
    assert read_measurements(store, BUNDLE) == ()
    first, second = measurement(12.0), measurement(13.0)
    assert add_measurements(store, BUNDLE, [first]) == 1
    assert add_measurements(store, BUNDLE, [second, first]) == 1
    assert add_measurements(store, BUNDLE, [first, second]) == 0
    assert sorted(read_measurements(store, BUNDLE), key=lambda one: one.to_json()) == [first, second]
    assert read_measurements(store, OTHER) == ()


def test_writers_at_once_lose_nothing(store: Store) -> None:
    taken = [measurement(float(speed)) for speed in range(1, 13)]
    with ThreadPoolExecutor(4) as pool:
        added = list(pool.map(lambda one: add_measurements(store, BUNDLE, [one]), taken))
    assert added == [1] * 12
    assert len(read_measurements(store, BUNDLE)) == 12


@pytest.mark.parametrize("bundle", [OTHER, None])
def test_a_measurement_of_another_bundle_is_refused(store: Store, bundle: str | None) -> None:
    other = measurement(bundle=bundle, match="claim")
    with pytest.raises(StoreError, match="can't be kept for") as caught:
        add_measurements(store, BUNDLE, [other])
    assert "--bundle" in caught.value.fix


def test_too_many_are_refused(store: Store) -> None:
    with pytest.raises(StoreError, match=f"the limit is {MEASUREMENTS_LIMIT}"):
        add_measurements(store, BUNDLE, [measurement(1.0 + speed) for speed in range(MEASUREMENTS_LIMIT + 1)])


def test_more_than_can_be_read_again_is_not_written(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A document of few measurements with many samples was written, and every later command refused it."""
    assert add_measurements(store, BUNDLE, [measurement(12.0)]) == 1
    monkeypatch.setattr(measurements, "BYTES_LIMIT", 2000)
    with pytest.raises(StoreError, match="bytes; the limit is 2,000"):
        add_measurements(store, BUNDLE, [measurement(float(speed)) for speed in range(1, 9)])
    assert len(read_measurements(store, BUNDLE)) == 1


def test_a_document_that_was_changed_is_refused(store: Store) -> None:
    add_measurements(store, BUNDLE, [measurement()])
    document = store.read_document(NAME)
    assert document is not None
    content = json.loads(document.content)
    for raw in (
        b"",
        b"[]",
        json.dumps(content | {"schema": "phipack.measurements/2"}).encode(),
        json.dumps(content | {"bundle": OTHER}).encode(),
        json.dumps(content | {"measurements": {}}).encode(),
        json.dumps(content | {"measurements": [content["measurements"][0] | {"bundle": OTHER}]}).encode(),
        json.dumps(content | {"measurements": [1]}).encode(),
    ):
        current = store.read_document(NAME)
        assert current is not None
        assert store.write_document(NAME, raw, replacing=current.tag)
        with pytest.raises((StoreError, MeasurementError)) as caught:
            read_measurements(store, BUNDLE)
        assert isinstance(caught.value, PhipackError)
        assert caught.value.fix
