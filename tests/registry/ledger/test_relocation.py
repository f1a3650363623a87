"""A project's folder that was moved: its registry is re-pointed to the store's new place, where digests agree."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from devtools.bundles import make_bundle
from registry.bundle.folder import Bundle, verify
from registry.fetch import fetch_version
from registry.ledger.ledger import Ledger, open_ledger
from registry.ledger.relocation import relocate
from registry.promotion import history, promote
from registry.store.folder import FolderStore
from targets.errors import GateError, RegistryError
from targets.references import Reference
from tests.support.registrations import client_of, entry, runs_of


@pytest.fixture
def moved(migrated_database: Path, tmp_path: Path, bundle: Bundle) -> Ledger:
    """The registry of a project in which a release was registered and promoted, and whose folder was moved then."""
    old = tmp_path / "old place" / ".phipack"
    old.mkdir(parents=True)
    shutil.copyfile(migrated_database, old / "mlflow.db")
    ledger = opened(old)
    ledger.store.add_bundle(bundle)
    ledger.register(entry(bundle))
    promote(ledger, Reference.parse("phi:1.0.0"), "staging", who="alice")
    (tmp_path / "old place").rename(tmp_path / "new place")
    return opened(tmp_path / "new place" / ".phipack")


def opened(home: Path) -> Ledger:
    return open_ledger(f"sqlite:///{home}/mlflow.db", FolderStore(home / "store"), home)


def test_everything_works_again_after_a_move(moved: Ledger, bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(GateError, match="is not in its store") as refused:
        promote(moved, Reference.parse("phi:1.0.0"), "production", who="alice")
    assert refused.value.fix == f"if the store was moved to {moved.store.uri}, run phipack registry relocate"
    found = relocate(moved)
    assert [row.reference for row in found.moved] == ["phi:1.0.0@iphone-15"]
    assert len(promote(moved, Reference.parse("phi:1.0.0"), "production", who="alice").cells) == 1
    (row,) = moved.versions("phi")
    placed, _ = fetch_version(row, tmp_path / "out")
    verify(placed)
    assert [move.channel for move in history(moved, "phi")][:2] == ["production", "staging"]
    assert relocate(moved).moved == ()
    assert not (tmp_path / "old place").exists()


def test_plain_mlflow_finds_bundle_and_evidence_there_too(moved: Ledger, bundle: Bundle, tmp_path: Path) -> None:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    relocate(moved)
    client = client_of(moved)
    version = client.get_model_version_by_alias("phi.iphone-15", "staging")
    assert version.source == moved.store.bundle_uri(bundle.digest)
    (tmp_path / "out").mkdir()
    out = Path(get_artifact_repository(version.source).download_artifacts("", str(tmp_path / "out")))
    assert (out / "model.gguf").read_bytes() == bundle.file("model.gguf").read_bytes()
    for run in runs_of(moved):
        assert run.info.artifact_uri.replace("file:///", "file:/").startswith(
            f"phipack-{moved.store.uri}/mlflow/phi/".replace("file:///", "file:/")
        )
    moved.register(entry(bundle, "1.1.0"))  # new evidence goes to the new place
    assert not (tmp_path / "old place").exists()


def test_a_dry_run_changes_nothing(moved: Ledger) -> None:
    before = moved.versions("phi")
    assert len(relocate(moved, dry_run=True).moved) == 1
    assert moved.versions("phi") == before


def test_what_is_in_neither_place_is_refused_and_nothing_changes(moved: Ledger, bundle: Bundle, tmp_path: Path) -> None:
    before = moved.versions("phi")
    elsewhere = Ledger(moved.uri, FolderStore(tmp_path / "empty"))
    with pytest.raises(RegistryError, match=r"is neither in .*nothing was changed"):
        relocate(elsewhere)
    elsewhere.store.add_bundle(bundle)
    with pytest.raises(RegistryError, match=r"its evidence is not in .*nothing was changed"):
        relocate(elsewhere)
    assert moved.versions("phi") == before


def test_what_is_where_it_was_registered_stays(moved: Ledger, bundle: Bundle, tmp_path: Path) -> None:
    relocate(moved)
    copy = FolderStore(tmp_path / "copy")
    copy.add_bundle(bundle)
    found = relocate(Ledger(moved.uri, copy))
    assert (found.moved, found.kept) == ((), 1)


def test_a_store_that_lost_one_bundle_is_re_pointed_with_all_of_them_or_not_at_all(
    moved: Ledger, bundle: Bundle, tmp_path: Path
) -> None:
    """The columns name stores, so what was still there went along, to a store that does not have it."""
    relocate(moved)
    old, new = moved.store, FolderStore(tmp_path / "new store")
    assert isinstance(old, FolderStore)
    shutil.copytree(old.root, new.root)
    other = make_bundle(tmp_path / "other", {"model.gguf": b"of 1.1.0"})
    old.add_bundle(other)
    moved.register(entry(other, "1.1.0"))
    Path(old.location_of(bundle.digest)).unlink()
    before = moved.versions("phi")
    ledger = Ledger(moved.uri, new)
    with pytest.raises(RegistryError, match=rf"phi:1.1.0@iphone-15: .* is in {old.uri} alone.*nothing was changed"):
        relocate(ledger)
    assert moved.versions("phi") == before
    shutil.copytree(old.root, new.root, dirs_exist_ok=True)
    found = relocate(ledger)
    assert ([str(row.release) for row in found.moved], found.kept) == (["1.0.0", "1.1.0"], 0)
    assert {row.store for row in moved.versions("phi")} == {new.uri}


def test_a_server_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="its API changes no places"):
        relocate(Ledger("http://mlflow.example", FolderStore(tmp_path)))
