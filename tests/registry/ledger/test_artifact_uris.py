"""Which URIs the artifact plugin opens, and which stores a server serves: both are checked before anything is read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from registry.bundle.folder import Bundle
from registry.files.digests import digest_of_bytes
from registry.ledger.artifact_uris import BundleUri, RunFilesUri, parse_artifact_uri
from registry.ledger.served_stores import SERVED_STORES, in_mlflow_server
from registry.store.folder import FolderStore
from targets.errors import StoreError

DIGEST = "sha256:" + "ab" * 32
RUN = "0123456789abcdef" * 2
FILES = f"mlflow/phi/{RUN}/artifacts"
GOOD = {
    f"phipack-file:///srv/store/{DIGEST}": BundleUri("file:///srv/store", DIGEST),
    f"phipack-file:/srv/store/{DIGEST}/": BundleUri("file:///srv/store", DIGEST),
    f"phipack-file:///srv/my%20store/{DIGEST}": BundleUri("file:///srv/my%20store", DIGEST),
    f"phipack-s3://models/{DIGEST}": BundleUri("s3://models", DIGEST),
    f"phipack-s3://models/a store/of phi/{DIGEST}": BundleUri("s3://models/a store/of phi", DIGEST),
    f"phipack-file:/srv/store/{FILES}": RunFilesUri("file:///srv/store", "phi", RUN, ""),
    f"phipack-s3://models/store/{FILES}/": RunFilesUri("s3://models/store", "phi", RUN, ""),
    f"phipack-s3://models/store/{FILES}/a/b c": RunFilesUri("s3://models/store", "phi", RUN, "a/b c"),
    # Where an account chose the first part, as an experiment's location, the store is not the one around the run.
    f"phipack-file:///s/{FILES}/mlflow/x/{RUN}/artifacts": RunFilesUri(f"file:///s/{FILES}", "x", RUN, ""),
}
BAD = [
    "",
    "file:///etc",
    f"file:///srv/store/{DIGEST}",
    "phipack-file:///etc",
    "phipack-file:/etc",
    "phipack-file://",
    "phipack-file:///",
    f"phipack-file:///{DIGEST}",
    f"phipack-file:////{DIGEST}",
    f"phipack-file:etc/{DIGEST}",
    f"phipack-file://localhost/srv/store/{DIGEST}",
    f"phipack-file://host/srv/store/{DIGEST}",
    f"phipack-file:////srv/store/{DIGEST}",
    f"phipack-file:///srv//store/{DIGEST}",
    f"phipack-file:///srv/store//{DIGEST}",
    f"phipack-file:///srv/store/{DIGEST}//",
    f"phipack-file:///srv/../etc/{DIGEST}",
    f"phipack-file:///srv/./store/{DIGEST}",
    f"phipack-file:///srv/%2e%2e/etc/{DIGEST}",
    f"phipack-file:///srv/%252e%252e/etc/{DIGEST}",
    f"phipack-file:///srv/.%2e/etc/{DIGEST}",
    f"phipack-file:///srv%2fstore/{DIGEST}",
    f"phipack-file:///srv/sto%72e/{DIGEST}",
    f"phipack-file:///srv/my store/{DIGEST}",
    f"phipack-file:///srv/st%00re/{DIGEST}",
    f"phipack-file:///srv/st\nore/{DIGEST}",
    f"phipack-file:///srv\\store/{DIGEST}",
    f"phipack-file:///srv/store/{DIGEST}?x=/etc",
    f"phipack-file:///srv/store?/{DIGEST}",
    f"phipack-file:///srv/store/{DIGEST}#x",
    f"phipack-file:///srv/store/{DIGEST}/model.gguf",
    f"phipack-file:///srv/store/{DIGEST.upper()}",
    f"phipack-file:///srv/store/{DIGEST[:-1]}",
    f"PHIPACK-FILE:///srv/store/{DIGEST}",
    "phipack-s3://models",
    "phipack-s3://models/secrets",
    f"phipack-s3:///{DIGEST}",
    f"phipack-s3://{DIGEST}",
    f"phipack-s3://user@models/{DIGEST}",
    f"phipack-s3://models:80/{DIGEST}",
    f"phipack-s3://models/../other/{DIGEST}",
    f"phipack-s3://models/%2e%2e/other/{DIGEST}",
    f"phipack-s3://models//store/{DIGEST}",
    f"phipack-s3://models/store?/{DIGEST}",
    f"phipack-gs://models/store/{DIGEST}",
    f"phipack-phipack-file:///srv/store/{DIGEST}",
    "phipack-file:///srv/store/mlflow/phi",
    f"phipack-file:///srv/store/mlflow/phi/{RUN}",
    f"phipack-file:///srv/store/mlflow/phi/{RUN}/metrics",
    f"phipack-file:///srv/store/mlflow/Phi!/{RUN}/artifacts",
    f"phipack-file:///srv/store/mlflow/../{RUN}/artifacts",
    f"phipack-file:///srv/store/mlflow/phi/{RUN[:-1]}/artifacts",
    f"phipack-file:///srv/store/mlflow/phi/{RUN.upper()}/artifacts",
    "phipack-file:///srv/store/mlflow/phi/models/m-1/artifacts",
    f"phipack-file:///srv/store/{FILES}/..",
    f"phipack-file:///srv/store/{FILES}/%2e%2e/x",
    f"phipack-file:///srv/store/{FILES}/a//b",
    f"phipack-file:///srv/store/{FILES}?x",
    f"phipack-file:///{FILES}",
    f"phipack-s3://{FILES}",
]


@pytest.mark.parametrize("uri", GOOD)
def test_the_two_forms_are_parsed(uri: str) -> None:
    assert parse_artifact_uri(uri) == GOOD[uri]


@pytest.mark.parametrize("uri", BAD)
def test_nothing_else_is_opened(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.exceptions import MlflowException

    from registry.ledger import artifact_plugin

    touched: list[object] = []
    monkeypatch.setattr(artifact_plugin, "open_store", touched.append)
    with pytest.raises(StoreError):
        parse_artifact_uri(uri)
    for open_one in (
        artifact_plugin.artifact_repository,
        artifact_plugin.BundleArtifactRepository,
        artifact_plugin.RunArtifactRepository,
    ):
        with pytest.raises(MlflowException, match="names neither a bundle nor a run's files"):
            open_one(uri)
    assert touched == []


def test_a_stores_own_uris_are_parsed(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "ein Lager: für alles+mehr?#;=&%41")
    assert parse_artifact_uri(store.bundle_uri(DIGEST)) == BundleUri(store.uri, DIGEST)


@pytest.fixture
def server_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process as a worker of `mlflow server`."""
    monkeypatch.setenv("_MLFLOW_SERVER_BOOT_ID", "1")
    monkeypatch.delenv(SERVED_STORES, raising=False)


def opened(store: FolderStore, bundle: Bundle) -> set[str]:
    from registry.ledger.artifact_plugin import artifact_repository

    return {file.path for file in artifact_repository(store.bundle_uri(bundle.digest)).list_artifacts()}


def test_a_server_serves_nothing_unless_its_administrator_names_it(
    server_process: None, store: FolderStore, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.exceptions import MlflowException

    store.add_bundle(bundle)
    for value in (None, "", " \n", f"file://{tmp_path}", f"{store.uri}/blobs", f"{store.uri}x s3://models"):
        if value is not None:
            monkeypatch.setenv(SERVED_STORES, value)
        with pytest.raises(MlflowException, match=f"does not serve the store .*\n.*{SERVED_STORES}") as caught:
            opened(store, bundle)
        assert caught.value.error_code == "PERMISSION_DENIED"
    (tmp_path / "link").symlink_to(store.root)
    for value in (store.uri, f"s3://models\n{store.uri}/", f"file://{tmp_path}/link"):
        monkeypatch.setenv(SERVED_STORES, value)
        assert "model.gguf" in opened(store, bundle)


@pytest.mark.parametrize("value", ["/srv/store", "file://srv", "s3://", "store", "phipack-file:///srv/store"])
def test_a_store_that_is_named_wrongly_opens_none(
    server_process: None, value: str, store: FolderStore, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.exceptions import MlflowException

    monkeypatch.setenv(SERVED_STORES, f"{store.uri} {value}")
    store.add_bundle(bundle)
    with pytest.raises(MlflowException, match="is not a store's URI"):
        opened(store, bundle)


def test_a_client_needs_no_list(store: FolderStore, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SERVED_STORES, raising=False)
    store.add_bundle(bundle)
    assert not in_mlflow_server()
    assert "model.gguf" in opened(store, bundle)


# In this order: what is imported for one is there for the next.
_PROCESSES = {
    "import os; os.environ['_MLFLOW_SERVER_ARTIFACT_ROOT'] = 'x'": True,
    "import mlflow, flask; flask.Flask('a').test_request_context('/').push()": False,
    "import uvicorn, mlflow": False,
    "import mlflow.server": False,
    "import mlflow.server; mlflow.server.app.test_request_context('/').push()": True,
    "import uvicorn, mlflow.server": True,
}
_IMPORTED = ("import mlflow", "import mlflow.server")  # by the process that the others are forked off
_ASK_EACH = """
import json, os, sys
from registry.ledger.served_stores import in_mlflow_server

codes, imported = json.loads(sys.argv[1])
for code in codes:
    for one in imported:
        if code.startswith(one):
            exec(one)
    read, write = os.pipe()
    child = os.fork()
    if not child:
        exec(code)
        os.write(write, str(in_mlflow_server()).encode())
        os._exit(0)
    os.waitpid(child, 0)
    print(os.read(read, 10).decode())
"""


def test_a_server_is_recognised() -> None:
    """Each in a process of its own, forked off one that has imported MLflow, which takes seconds."""
    words = json.dumps([list(_PROCESSES), _IMPORTED])
    done = subprocess.run([sys.executable, "-c", _ASK_EACH, words], capture_output=True, text=True, check=True)
    assert dict(zip(_PROCESSES, done.stdout.split()[-len(_PROCESSES) :], strict=True)) == {
        code: str(server) for code, server in _PROCESSES.items()
    }


@pytest.fixture
def run_folder(store: FolderStore) -> Path:
    """An empty folder of a run's files."""
    folder = store.root.resolve() / FILES
    folder.mkdir(parents=True)
    return folder


def run_files(store: FolderStore, below: str = "") -> Any:
    from registry.ledger.artifact_plugin import artifact_repository

    return artifact_repository(f"phipack-{store.uri}/{FILES}{below}")


def test_no_path_leads_out_of_a_runs_files(store: FolderStore, run_folder: Path, tmp_path: Path) -> None:
    from mlflow.exceptions import MlflowException

    (run_folder.parent / "secret").write_text("secret")
    (run_folder / "own.json").write_text("{}")
    files = run_files(store)
    assert [file.path for file in files.list_artifacts()] == ["own.json"]
    for path in (
        "../secret",
        "..",
        "%2e%2e/secret",
        "a/../../secret",
        "/etc/passwd",
        "a//b",
        "a\\..\\b",
        "a?b",
        "a\0b",
    ):
        for act in (
            lambda path=path: files.list_artifacts(path),
            lambda path=path: files._download_file(path, str(tmp_path / "out")),
            lambda path=path: files.log_artifact(str(run_folder / "own.json"), path),
            lambda path=path: files.log_artifacts(str(run_folder), path),
            lambda path=path: files.delete_artifacts(path),
        ):
            with pytest.raises(MlflowException, match="is not the path of a run's file"):
                act()
    assert (run_folder.parent / "secret").read_text() == "secret"
    assert not (tmp_path / "out").exists()


def test_no_link_leads_out_of_a_runs_files(store: FolderStore, run_folder: Path, tmp_path: Path) -> None:
    from mlflow.exceptions import MlflowException

    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (run_folder / "folder").symlink_to(outside)
    (run_folder / "file").symlink_to(outside / "secret")
    files = run_files(store)
    assert files.list_artifacts() == []
    for act in (
        lambda: files.list_artifacts("folder"),
        lambda: files._download_file("file", str(tmp_path / "out")),
        lambda: files._download_file("folder/secret", str(tmp_path / "out")),
        lambda: files.log_artifact(str(outside / "secret"), "folder"),
        lambda: files.delete_artifacts("folder"),
    ):
        with pytest.raises(MlflowException, match="a link leads out"):
            act()
    (run_folder / "a folder").symlink_to(outside)
    for below in ("/folder", "/a folder", "/a%20folder"):
        with pytest.raises(MlflowException, match="a link leads out"):
            run_files(store, below).list_artifacts()
    (run_folder / "a folder").unlink()
    (run_folder / "folder").unlink()
    (run_folder / "file").unlink()
    run_folder.rmdir()
    run_folder.symlink_to(outside)
    with pytest.raises(MlflowException, match="a link leads out"):
        run_files(store).list_artifacts()
    assert [path.name for path in outside.iterdir()] == ["secret"]
    assert not (tmp_path / "out").exists()


def test_no_link_leads_out_of_a_store(store: FolderStore, bundle: Bundle, tmp_path: Path) -> None:
    from mlflow.exceptions import MlflowException

    store.add_bundle(bundle)
    for name, content in (("model.gguf", None), ("manifest.json", bundle.manifest.to_bytes())):
        raw = (bundle.path / name).read_bytes() if content is None else content
        blob = Path(store.location_of(digest_of_bytes(raw)))
        outside = blob.rename(tmp_path / name)
        blob.symlink_to(outside)
        with pytest.raises(MlflowException, match="a link leads out"):
            download(store, bundle, tmp_path / "out")
        assert not (tmp_path / "out").exists()


def download(store: FolderStore, bundle: Bundle, out: Path) -> None:
    from registry.ledger.artifact_plugin import BundleArtifactRepository

    BundleArtifactRepository(store.bundle_uri(bundle.digest))._download_file("model.gguf", str(out))


def test_a_blob_that_is_no_manifest_is_no_bundle(store: FolderStore, bundle: Bundle) -> None:
    from mlflow.exceptions import MlflowException

    from registry.ledger.artifact_plugin import artifact_repository

    store.add_bundle(bundle)
    digest = digest_of_bytes((bundle.path / "model.gguf").read_bytes())
    with pytest.raises(MlflowException):
        artifact_repository(store.bundle_uri(digest))
