"""MLflow's road to bundles: the artifact plugin behind URIs that begin with `phipack-file://` and `phipack-s3://`.

    phipack-STORE/sha256:…                      a version's source: its bundle
    phipack-STORE/mlflow/MODEL/RUN/artifacts    a run's files; with the evidence of a bundle, the bundle itself

With it, `mlflow.artifacts.download_artifacts("models:/MODEL.CELL@production")` in plain MLflow returns the verified
bundle, and the page of the version's source run lists the bundle's files and serves them, where phipack is installed
with the server. MLflow finds `artifact_repository` by the entry point `mlflow.artifact_repository`.

A URI can come from any account of a server. Before a path or a bucket is touched, it is held to the two forms above
(`artifact_uris.py`), and in a server to the stores that its administrator names (`served_stores.py`). A server only
reads, and no link leads out of a folder store.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from mlflow.entities import FileInfo
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, INVALID_PARAMETER_VALUE, PERMISSION_DENIED
from mlflow.store.artifact.artifact_repo import ArtifactRepository

from registry.bundle.manifest import MANIFEST_NAME, FileEntry
from registry.files.digests import digest_of_bytes
from registry.files.temporary import temporary_folder
from registry.ledger.artifact_uris import BundleUri, RunFilesUri, parse_artifact_uri
from registry.ledger.served_stores import in_mlflow_server, require_requested, require_served
from registry.store.folder import FolderStore
from registry.store.s3_client import s3_client
from registry.store.uris import open_store
from targets.errors import PhipackError
from targets.places import is_plain_path

BUNDLE_FOLDER = "bundle"


def artifact_repository(
    artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None
) -> ArtifactRepository:
    """Open what a URI of phipack's names, as MLflow asks its plugins to. Raises `MlflowException`."""
    bundle = isinstance(_allowed(artifact_uri), BundleUri)
    kind = BundleArtifactRepository if bundle else RunArtifactRepository
    return kind(artifact_uri, tracking_uri, registry_uri)


class BundleArtifactRepository(ArtifactRepository):
    """One bundle, read-only. Every file is hashed as it is written; a damaged one is removed and refused."""

    def __init__(self, artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None) -> None:
        place = _allowed(artifact_uri)
        if not isinstance(place, BundleUri):
            raise MlflowException(f"{artifact_uri!r} does not name a bundle", INVALID_PARAMETER_VALUE)
        super().__init__(artifact_uri, tracking_uri, registry_uri)
        self._digest = place.digest
        with _mlflow_errors():
            self._store = open_store(place.store)
            self._require_inside(self._digest)
            manifest = self._store.manifest(self._digest)
        itself = FileEntry.model_construct(
            path=MANIFEST_NAME, bytes=len(manifest.to_bytes()), sha256=self._digest.removeprefix("sha256:")
        )
        self._files = {entry.path: entry for entry in (*manifest.files, itself)}

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        """List what is directly below `path`; nothing where it is a file."""
        folder = PurePosixPath(path or "")
        found: dict[str, FileInfo] = {}
        for name, entry in self._files.items():
            file = PurePosixPath(name)
            if folder not in file.parents:
                continue
            child = folder / file.relative_to(folder).parts[0]
            is_folder = child != file
            found[str(child)] = FileInfo(str(child), is_folder, None if is_folder else entry.bytes)
        return [found[name] for name in sorted(found)]

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        entry = self._files.get(remote_file_path)
        if entry is None:
            raise MlflowException(f"bundle {self._digest} has no file {remote_file_path!r}")
        self._require_inside(entry.digest)
        out = Path(local_path)
        try:
            with _mlflow_errors():
                self._store.copy_out(entry.digest, out, what=f"{entry.path} of bundle {self._digest}")
        except MlflowException:
            out.unlink(missing_ok=True)
            raise

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> NoReturn:  # noqa: ARG002
        """Refuse: bundles don't change."""
        raise MlflowException(f"bundle {self._digest} does not change; build and register another one with phipack")

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> NoReturn:
        """Refuse: bundles don't change."""
        self.log_artifact(local_dir, artifact_path)

    def _require_inside(self, digest: str) -> None:
        if isinstance(self._store, FolderStore):
            _require_inside(Path(self._store.location_of(digest)), self._store.root.resolve())


class RunArtifactRepository(ArtifactRepository):
    """A run's files, which MLflow keeps in the store's folder `mlflow/`; below `bundle/`, what their manifest names."""

    def __init__(self, artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None) -> None:
        place = _allowed(artifact_uri)
        if not isinstance(place, RunFilesUri):
            raise MlflowException(f"{artifact_uri!r} does not name a run's files", INVALID_PARAMETER_VALUE)
        super().__init__(artifact_uri, tracking_uri, registry_uri)
        # It imports this module at its own start.
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        self._place, self._read_only = place, in_mlflow_server()
        files: Any = get_artifact_repository(place.place, tracking_uri, registry_uri)  # its methods have no types
        with _mlflow_errors():
            store = open_store(place.store)
        self._folder: Path | None = None
        if isinstance(store, FolderStore):
            self._folder = store.root.resolve() / place.folder
        else:
            # The store's own way to S3: MLflow's keeps the credentials that a process had first.
            files._get_s3_client = s3_client  # noqa: SLF001 - it has no other door
        self._files = files

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        """List what is directly below `path`: the run's own, or the bundle's."""
        path = self._checked(path)
        if (inside := _inside_bundle(path or "")) is not None:
            found = self._bundle().list_artifacts(inside)
            return [FileInfo(f"{BUNDLE_FOLDER}/{file.path}", file.is_dir, file.file_size) for file in found]
        own = [file for file in self._files.list_artifacts(path) if self._is_inside(file.path)]
        has_bundle = not path and any(file.path == MANIFEST_NAME for file in own)
        return [*own, FileInfo(BUNDLE_FOLDER, True, None)] if has_bundle else own

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        self._checked(remote_file_path)
        inside = _inside_bundle(remote_file_path)
        if inside is None:
            repository: Any = self._files
        else:
            repository, remote_file_path = self._bundle(), inside
        repository._download_file(remote_file_path, local_path)  # noqa: SLF001 - a repository's part in a download

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        """Add a file to the run."""
        self._files.log_artifact(local_file, self._writable(artifact_path))

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
        """Add a folder's files to the run."""
        self._files.log_artifacts(local_dir, self._writable(artifact_path))

    def delete_artifacts(self, artifact_path: str | None = None) -> None:
        """Remove the run's own files, as `mlflow gc` does; a bundle is the store's."""
        self._files.delete_artifacts(self._writable(artifact_path))

    def _bundle(self) -> BundleArtifactRepository:
        self._checked(MANIFEST_NAME)
        with _mlflow_errors(), temporary_folder("phipack-manifest") as folder:
            manifest = Path(self._files.download_artifacts(MANIFEST_NAME, str(folder))).read_bytes()
        return BundleArtifactRepository(str(BundleUri(self._place.store, digest_of_bytes(manifest))))

    def _checked(self, path: str | None) -> str | None:
        """Return a path below the run's folder, which stays there. Raises `MlflowException`."""
        path = (path or "").removesuffix("/")
        if path and not is_plain_path(path):
            raise MlflowException(f"{path!r} is not the path of a run's file", INVALID_PARAMETER_VALUE)
        if self._folder is not None:
            _require_inside(self._folder / path, self._folder)
        return path or None

    def _writable(self, path: str | None) -> str | None:
        if self._read_only:
            raise MlflowException("an MLflow server only reads phipack's stores", PERMISSION_DENIED)
        return self._checked(path)

    def _is_inside(self, path: str) -> bool:
        return self._folder is None or (self._folder / path).resolve().is_relative_to(self._folder)


def _allowed(uri: str) -> BundleUri | RunFilesUri:
    """Parse a URI that may be opened here. Raises `MlflowException`."""
    with _mlflow_errors(INVALID_PARAMETER_VALUE):
        place = parse_artifact_uri(uri)
    if in_mlflow_server():
        with _mlflow_errors(PERMISSION_DENIED):
            require_served(place.store)
            if isinstance(place, RunFilesUri):
                require_requested(place.run)
    return place


@contextmanager
def _mlflow_errors(code: int = INTERNAL_ERROR) -> Iterator[None]:
    """Turn phipack's errors into `MlflowException` with one of MLflow's codes."""
    try:
        yield
    except PhipackError as error:
        raise MlflowException(str(error), code) from error


def _require_inside(path: Path, folder: Path) -> None:
    """Refuse a path that a link leads out of the folder. Raises `MlflowException`."""
    if not path.resolve().is_relative_to(folder):
        raise MlflowException(f"{path.name}: a link leads out of the store's folder", PERMISSION_DENIED)


def _inside_bundle(path: str) -> str | None:
    """The path within the bundle; None where it is one of the run's own."""
    folder, _, inside = path.partition("/")
    return inside if folder == BUNDLE_FOLDER else None
