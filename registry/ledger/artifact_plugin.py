"""MLflow's road to bundles: the artifact plugin behind URIs that begin with `phipack-file://` and `phipack-s3://`.

    phipack-STORE/sha256:…                      a version's source: its bundle
    phipack-STORE/mlflow/MODEL/RUN/artifacts    a run's files; beside the evidence of a bundle lies the bundle itself

With it, `mlflow.artifacts.download_artifacts("models:/MODEL.CELL@production")` in plain MLflow gives the verified
bundle, and the page of the version's source run lists the bundle's files and gives them out, where phipack is installed
beside the server. MLflow finds `artifact_repository` by the entry point `mlflow.artifact_repository`.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from mlflow.entities import FileInfo
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repo import ArtifactRepository

from registry.bundle.manifest import MANIFEST_NAME, FileEntry
from registry.files.digests import digest_of_bytes
from registry.ledger.tracking import RUNS_FOLDER
from registry.store.protocol import URI_PREFIX, is_digest
from registry.store.s3_client import s3_client
from registry.store.uris import open_store, parse_bundle_uri
from targets.errors import PhipackError

BUNDLE_FOLDER = "bundle"


def artifact_repository(
    artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None
) -> ArtifactRepository:
    """Open what a URI of phipack's names, as MLflow asks its plugins to. Raises `MlflowException`."""
    kind = BundleArtifactRepository if is_digest(artifact_uri.rstrip("/").rpartition("/")[2]) else RunArtifactRepository
    return kind(artifact_uri, tracking_uri, registry_uri)


class BundleArtifactRepository(ArtifactRepository):
    """One bundle, read-only. Every file is hashed as it is written; a damaged one is removed and refused."""

    def __init__(self, artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None) -> None:
        super().__init__(artifact_uri, tracking_uri, registry_uri)
        try:
            store_uri, self._digest = parse_bundle_uri(artifact_uri.rstrip("/"))
            self._store = open_store(store_uri)
            manifest = self._store.manifest(self._digest)
        except PhipackError as error:
            raise MlflowException(str(error)) from error
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
        out = Path(local_path)
        try:
            self._store.copy_out(entry.digest, out, what=f"{entry.path} of bundle {self._digest}")
        except PhipackError as error:
            out.unlink(missing_ok=True)
            raise MlflowException(str(error)) from error

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> NoReturn:  # noqa: ARG002
        """Refuse: bundles don't change."""
        raise MlflowException(f"bundle {self._digest} does not change; build and register another one with phipack")

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> NoReturn:
        """Refuse: bundles don't change."""
        self.log_artifact(local_dir, artifact_path)


class RunArtifactRepository(ArtifactRepository):
    """A run's files, which MLflow keeps in the store's folder `mlflow/`; below `bundle/`, what their manifest names."""

    def __init__(self, artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None) -> None:
        super().__init__(artifact_uri, tracking_uri, registry_uri)
        # It imports this module at its own start.
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        place = artifact_uri.rstrip("/").removeprefix(URI_PREFIX)
        self._place = re.sub("^file:/(?!/)", "file:///", place)  # MLflow shortens a scheme that it does not know
        files: Any = get_artifact_repository(self._place, tracking_uri, registry_uri)  # its methods have no types
        if self._place.startswith("s3:"):
            # The store's own way to S3: MLflow's keeps the credentials that a process had first.
            files._get_s3_client = s3_client  # noqa: SLF001 - it has no other door
        self._files = files

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        """List what is directly below `path`: the run's own, or the bundle's."""
        if (inside := _inside_bundle(path or "")) is not None:
            found = self._bundle().list_artifacts(inside)
            return [FileInfo(f"{BUNDLE_FOLDER}/{file.path}", file.is_dir, file.file_size) for file in found]
        own = list(self._files.list_artifacts(path))
        has_bundle = not path and any(file.path == MANIFEST_NAME for file in own)
        return [*own, FileInfo(BUNDLE_FOLDER, True, None)] if has_bundle else own

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        inside = _inside_bundle(remote_file_path)
        if inside is None:
            repository: Any = self._files
        else:
            repository, remote_file_path = self._bundle(), inside
        repository._download_file(remote_file_path, local_path)  # noqa: SLF001 - a repository's part in a download

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        """Add a file to the run."""
        self._files.log_artifact(local_file, artifact_path)

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
        """Add a folder's files to the run."""
        self._files.log_artifacts(local_dir, artifact_path)

    def delete_artifacts(self, artifact_path: str | None = None) -> None:
        """Remove the run's own files, as `mlflow gc` does; a bundle is the store's."""
        self._files.delete_artifacts(artifact_path)

    def _bundle(self) -> BundleArtifactRepository:
        with tempfile.TemporaryDirectory() as folder:
            manifest = Path(self._files.download_artifacts(MANIFEST_NAME, folder)).read_bytes()
        store = self._place.rpartition(f"/{RUNS_FOLDER}/")[0]
        return BundleArtifactRepository(f"{URI_PREFIX}{store}/{digest_of_bytes(manifest)}")


def _inside_bundle(path: str) -> str | None:
    """The path within the bundle; None where it is one of the run's own."""
    folder, _, inside = path.partition("/")
    return inside if folder == BUNDLE_FOLDER else None
