"""What plain MLflow sees and does: its download through our plugin, and a real tracking server over HTTP."""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.services.mlflow_server import MlflowSettings, running_mlflow
from registry.bundle import Bundle, open_bundle, verify
from registry.folder_store import FolderStore
from registry.ledger import Ledger, open_ledger
from registry.promotion import history, promote, rollback
from registry.reading import open_reader, resolve_in
from registry.registration import Registration
from targets.errors import GateError, RegistryError
from targets.references import Reference, Version
from tests.registry.bundles import make_bundle, make_evidence
from tests.registry.conftest import contents
from tests.registry.test_ledger import client_of, entry
from tests.registry.test_store import flip
from tests.registry.users_mlflow import users_mlflow

ROOT = Path(__file__).parents[2]


@pytest.fixture
def plain_mlflow(ledger: Ledger, store: FolderStore, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """MLflow as a user imports it, pointed at a ledger whose phi:1.0.0@iphone-15 is in production."""
    store.add_bundle(bundle)
    ledger.register(entry(bundle))
    promote(ledger, Reference.parse("phi:1.0.0"), "production", who="ann")
    from mlflow.store.artifact.artifact_repository_registry import _artifact_repository_registry

    from registry.mlflow_artifacts import BundleArtifactRepository

    # What MLflow does with the entry point at its start; the wheel's own is held to this class below.
    monkeypatch.setitem(_artifact_repository_registry._registry, "phipack-file", BundleArtifactRepository)
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
    flip(Path(store.place_of("sha256:" + entry_of["model.gguf"].sha256)), 10)
    with pytest.raises(MlflowException, match="damaged"):
        plain_mlflow.artifacts.download_artifacts("models:/phi.iphone-15@production", dst_path=str(tmp_path / "dl"))
    assert not (tmp_path / "dl" / "model.gguf").exists()
    flip(Path(store.place_of(bundle.digest)), 10)
    with pytest.raises(MlflowException, match="damaged"):
        plain_mlflow.artifacts.list_artifacts("models:/phi.iphone-15@production")


def test_bundles_are_read_only_in_mlflow(plain_mlflow: Any, store: FolderStore, bundle: Bundle) -> None:
    from mlflow.exceptions import MlflowException

    from registry.mlflow_artifacts import BundleArtifactRepository

    repository = BundleArtifactRepository(store.bundle_uri(bundle.digest))
    with pytest.raises(MlflowException, match="does not change"):
        repository.log_artifacts(str(bundle.path))
    with pytest.raises(MlflowException, match="has no file"):
        repository._download_file("absent", str(bundle.path / "x"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, migrated_database: Path) -> Iterator[str]:
    """A real tracking server, with artifacts proxied, on a database of its own."""
    home = tmp_path_factory.mktemp("server")
    shutil.copy(migrated_database, home / "mlflow.db")
    with running_mlflow(home, MlflowSettings(f"sqlite:///{home}/mlflow.db", str(home / "artifacts"))) as server:
        yield server.uri


def test_the_road_over_http(
    server: str, store: FolderStore, bundle: Bundle, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Register, refuse, promote, roll back, resolve: on a tracking server, as a team has it."""
    ledger = open_ledger(server, store)
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
    reader = open_reader(server, store)
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
    repository = "registry.mlflow_artifacts:BundleArtifactRepository"
    assert plugins == {"phipack-file": repository, "phipack-s3": repository}
