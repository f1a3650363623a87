"""MLflow's road to bundles: the artifact plugin behind `phipack-file://` sources.

With it, `mlflow.artifacts.download_artifacts("models:/MODEL.CELL@production")` in plain MLflow gives the verified
bundle, and MLflow's pages list its files. MLflow finds the class by the entry point `mlflow.artifact_repository`;
nothing of phipack's imports this module.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import NoReturn

from mlflow.entities import FileInfo
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repo import ArtifactRepository

from registry.bundle import MANIFEST_NAME, FileEntry
from registry.store_uris import open_store, parse_bundle_uri
from targets.errors import PhipackError


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
