"""What plain MLflow sees and does: its download through our plugin, and a real tracking server over HTTP."""

from __future__ import annotations

import json
import os
import shutil
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from devtools.bundles import make_bundle, make_evidence
from devtools.services.postgresql import PostgresqlServer
from registry.bundle.folder import Bundle, open_bundle, verify
from registry.ledger.ledger import Ledger, open_ledger
from registry.ledger.reader import open_reader, resolve_in
from registry.ledger.registration import Registration
from registry.promotion import history, promote, rollback
from registry.store.folder import FolderStore
from registry.store.s3 import S3Store
from registry.store.uris import open_store
from targets.errors import GateError, RegistryError
from targets.references import Reference, Version
from tests.support.databases import SERVED, SERVER, Databases
from tests.support.folders import contents, flip
from tests.support.registrations import client_of, entry
from tests.support.users_mlflow import users_mlflow

ROOT = Path(__file__).parents[3]


@pytest.fixture
def plain_mlflow(ledger: Ledger, store: FolderStore, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """MLflow as a user imports it, pointed at a ledger whose phi:1.0.0@iphone-15 is in production."""
    store.add_bundle(bundle)
    ledger.register(entry(bundle))
    promote(ledger, Reference.parse("phi:1.0.0"), "production", who="ann")
    from mlflow.store.artifact.artifact_repository_registry import _artifact_repository_registry

    from registry.ledger.artifact_plugin import artifact_repository

    # What MLflow does with the entry point at its start; the wheel's own is held to this function below.
    monkeypatch.setitem(_artifact_repository_registry._registry, "phipack-file", artifact_repository)
    with users_mlflow(ledger.uri) as mlflow:
        yield mlflow


def test_mlflows_own_download_gives_the_verified_bundle(plain_mlflow: Any, bundle: Bundle, tmp_path: Path) -> None:
    place = plain_mlflow.artifacts.download_artifacts("models:/phi.iphone-15@production", dst_path=str(tmp_path / "dl"))
    verify(open_bundle(Path(place)))
    assert contents(Path(place)) == contents(bundle.path)


def test_mlflow_lists_a_bundles_files(plain_mlflow: Any) -> None:
    uri = "models:/phi.iphone-15@production"
    top = {file.path: (file.is_dir, file.file_size) for file in plain_mlflow.artifacts.list_artifacts(uri)}
    assert top["model.gguf"] == (False, 7000)
    assert top["model.mlpackage"] == (True, None)
    assert set(top) == {"manifest.json", "model.gguf", "model.mlpackage", "tokenizer.json"}
    below = plain_mlflow.artifacts.list_artifacts(f"{uri}/model.mlpackage/Data")
    assert [file.path for file in below] == ["model.mlpackage/Data/weights.bin"]


def test_mlflows_download_refuses_a_changed_byte(
    plain_mlflow: Any, store: FolderStore, bundle: Bundle, tmp_path: Path
) -> None:
    from mlflow.exceptions import MlflowException

    entry_of = {entry.path: entry for entry in bundle.manifest.files}
    flip(Path(store.location_of("sha256:" + entry_of["model.gguf"].sha256)), 10)
    with pytest.raises(MlflowException, match="damaged"):
        plain_mlflow.artifacts.download_artifacts("models:/phi.iphone-15@production", dst_path=str(tmp_path / "dl"))
    assert not (tmp_path / "dl" / "model.gguf").exists()
    flip(Path(store.location_of(bundle.digest)), 10)
    with pytest.raises(MlflowException, match="damaged"):
        plain_mlflow.artifacts.list_artifacts("models:/phi.iphone-15@production")


def test_bundles_are_read_only_in_mlflow(plain_mlflow: Any, store: FolderStore, bundle: Bundle) -> None:
    from mlflow.exceptions import MlflowException

    from registry.ledger.artifact_plugin import BundleArtifactRepository

    repository = BundleArtifactRepository(store.bundle_uri(bundle.digest))
    with pytest.raises(MlflowException, match="does not change"):
        repository.log_artifacts(str(bundle.path))
    with pytest.raises(MlflowException, match="has no file"):
        repository._download_file("absent", str(bundle.path / "x"))


@pytest.fixture
def s3_ledger(migrated_database: Path, tmp_path: Path, s3_store: S3Store) -> Ledger:
    """A ledger for bundles on S3."""
    shutil.copy(migrated_database, tmp_path / "mlflow.db")
    return open_ledger(f"sqlite:///{tmp_path}/mlflow.db", s3_store)


def test_it_gives_the_verified_bundle_from_s3_too(
    s3_ledger: Ledger,
    s3_store: S3Store,
    bundle: Bundle,
    tmp_path: Path,
) -> None:
    s3_store.add_bundle(bundle)
    evidence = make_evidence(bundle)
    s3_ledger.register(Registration("phi", Version(1, 0, 0), "iphone-15", bundle.manifest, evidence))
    promote(s3_ledger, Reference.parse("phi:1.0.0"), "production", who="ann")
    assert open_store(s3_ledger.versions("phi")[0].store).uri == s3_store.uri
    with users_mlflow(s3_ledger.uri) as mlflow:
        uri = "models:/phi.iphone-15@production"
        names = {file.path for file in mlflow.artifacts.list_artifacts(uri)}
        assert names == {"manifest.json", "model.gguf", "model.mlpackage", "tokenizer.json"}
        path = mlflow.artifacts.download_artifacts(uri, dst_path=str(tmp_path / "dl"))
    verify(open_bundle(Path(path)))
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in str(s3_ledger.versions("phi"))


@pytest.mark.parametrize("databases", [SERVER], indirect=True)
def test_mlflows_pages_list_a_versions_files_and_give_them_out(
    databases: Databases, postgresql: PostgresqlServer, served_store: FolderStore, bundle: Bundle, tmp_path: Path
) -> None:
    """What the Artifacts tab of the version's source run asks the server, which has it in its own database."""
    server, store = databases.fresh(tmp_path), served_store
    ledger = open_ledger(postgresql.uri(SERVED), store)
    store.add_bundle(bundle)
    run = ledger.register(replace(entry(bundle), model="listed")).run_id

    def listed(path: str) -> dict[str, int | None]:
        url = f"{server}/ajax-api/2.0/mlflow/artifacts/list?run_id={run}&path={path}"
        with urllib.request.urlopen(url) as answer:
            return {file["path"]: file.get("file_size") for file in json.load(answer)["files"]}

    assert set(listed("")) == {"bundle", "evidence.json", "manifest.json"}
    assert listed("bundle") == {
        "bundle/manifest.json": len(bundle.manifest.to_bytes()),
        "bundle/model.gguf": 7000,
        "bundle/model.mlpackage": None,
        "bundle/tokenizer.json": 2,
    }
    assert set(listed("bundle/model.mlpackage/Data")) == {"bundle/model.mlpackage/Data/weights.bin"}
    for path in ("bundle/model.gguf", "manifest.json"):
        with urllib.request.urlopen(f"{server}/get-artifact?run_uuid={run}&path={path}") as answer:
            assert answer.read() == (bundle.path / path.removeprefix("bundle/")).read_bytes()
    flip(Path(store.location_of(bundle.manifest.files[0].digest)), 10)
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(f"{server}/get-artifact?run_uuid={run}&path=bundle/model.gguf")


@pytest.mark.parametrize("databases", [SERVER], indirect=True)
def test_the_road_over_http(
    ledger: Ledger, store: FolderStore, bundle: Bundle, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Register, refuse, promote, roll back, resolve: on a tracking server, as a team has it."""
    newer = make_bundle(tmp_path / "newer", {"model.gguf": b"newer"})
    for given, version in ((bundle, "1.0.0"), (newer, "1.1.0")):
        store.add_bundle(given)
        for cell in ("iphone-15", "pixel-9"):
            ledger.register(entry(given, version, cell, target=cell))
    with pytest.raises(RegistryError, match="registered already"):
        ledger.register(entry(newer, "1.0.0"))
    bad = Registration("phi", Version(2, 0, 0), "pixel-9", newer.manifest, make_evidence(newer, kl_mean=1))
    ledger.register(bad)
    with pytest.raises(GateError, match="kl_mean is 1"):
        promote(ledger, Reference.parse("phi:2.0.0"), "production", who="ann")
    promote(ledger, Reference.parse("phi:1.0.0"), "production", who="ann")
    promote(ledger, Reference.parse("phi:^1"), "production", who="ann", why="better")
    assert client_of(ledger).get_model_version_by_alias("phi.pixel-9", "production").tags["phipack.release"] == "1.1.0"
    rollback(ledger, "phi", "production", who="bob")
    reader = open_reader(ledger.uri, store)
    assert [row.reference for row in resolve_in(reader, Reference.parse("phi"))] == [
        "phi:1.0.0@iphone-15",
        "phi:1.0.0@pixel-9",
    ]
    assert [move.title for move in history(ledger, "phi")] == [
        "rollback of production to 1.0.0",
        "promotion of 1.1.0 to production",
        "promotion of 1.0.0 to production",
    ]
    assert capfd.readouterr() == ("", "")


def test_the_wheel_names_the_plugin() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    plugins = project["entry-points"]["mlflow.artifact_repository"]
    repository = "registry.ledger.artifact_plugin:artifact_repository"
    assert plugins == {"phipack-file": repository, "phipack-s3": repository}
