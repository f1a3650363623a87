"""Bundles on disk: the manifest, and reading, writing and verifying.

    BUNDLE/
      manifest.json            this module's: what the bundle is, and digest and size of every other file
      tokenizer.json …         what transformers loads from the checkpoint
      chat_template.jinja      the template alone, where the checkpoint has one
      model.gguf               gguf, or
      genai_config.json, model.onnx, model.onnx.data      onnx, or
      model.mlpackage/…        coreml

A bundle is named by the SHA-256 of its `manifest.json` and does not change. It contains neither the model's name nor a
version nor a target: those belong to the registry, and targets may share a bundle.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from registry.bundle.chunks import FileDigest
from registry.bundle.manifest import MANIFEST_BYTES_LIMIT, MANIFEST_NAME, FileEntry, Manifest
from registry.files.digests import digest_of_file
from targets.bounded_file import TooLargeError, read_at_most
from targets.errors import BundleError
from targets.stated_path import fix_for


@dataclass(frozen=True)
class Bundle:
    """A bundle folder with its parsed manifest. `open_bundle` and `seal` return one."""

    path: Path
    manifest: Manifest

    @property
    def digest(self) -> str:
        """The bundle's name, `sha256:<hex>`."""
        return self.manifest.digest

    def file(self, name: str) -> Path:
        """Return the path of one of its files or folders."""
        return self.path / name


def files_below(folder: Path) -> list[str]:
    """Return the POSIX paths of all files below a folder but the manifest, sorted. Raises `BundleError` on links."""
    found = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise BundleError(
                f"{path}: a bundle holds plain files only, no links or devices",
                fix="remove it; if the bundle needs it, put a copy of the file there",
            )
        if path.is_file() and name != MANIFEST_NAME:
            found.append(name)
    return found


def file_entries(folder: Path, known: Mapping[str, FileDigest] | None = None) -> list[FileEntry]:
    """Describe all files below a folder but the manifest. `known`: digests of files that need not be read."""
    entries = []
    for name in files_below(folder):
        path = folder / name
        found = (known or {}).get(name) or FileDigest(digest_of_file(path).removeprefix("sha256:"))
        entries.append(FileEntry(path=name, bytes=path.stat().st_size, sha256=found.sha256, chunks=found.chunks))
    return entries


def seal(folder: Path, manifest: Manifest) -> Bundle:
    """Write the manifest into a folder whose files it describes."""
    (folder / MANIFEST_NAME).write_bytes(manifest.to_bytes())
    return Bundle(folder, manifest)


def open_bundle(folder: Path) -> Bundle:
    """Read a bundle's manifest, without reading its files. Raises `BundleError`."""
    path = folder / MANIFEST_NAME
    try:
        raw = read_at_most(path, MANIFEST_BYTES_LIMIT)
    except (OSError, TooLargeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        fix = "name a folder that phipack build or phipack fetch made"
        if not os.path.lexists(folder):
            raise BundleError(f"{folder} is not a bundle: there is no such folder", fix=fix_for(folder, fix)) from error
        raise BundleError(f"{folder} is not a bundle: {MANIFEST_NAME} can't be read ({reason})", fix=fix) from error
    return Bundle(folder, Manifest.parse(raw, source=str(path)))


def verify(bundle: Bundle) -> None:
    """Compare every file with the manifest: none missing, none extra, sizes and digests right. Raises `BundleError`."""
    expected = {entry.path: entry for entry in bundle.manifest.files}
    present = set(files_below(bundle.path))
    if missing := sorted(expected.keys() - present):
        raise BundleError(f"{bundle.path}: missing file {missing[0]!r}", fix="fetch or build it again")
    if extra := sorted(present - expected.keys()):
        raise BundleError(f"{bundle.path}: file {extra[0]!r} is not in the manifest", fix="fetch or build it again")
    for name, entry in expected.items():
        path = bundle.path / name
        size = path.stat().st_size
        if size != entry.bytes:
            raise BundleError(f"{path}: {size} bytes, the manifest says {entry.bytes}", fix="fetch or build it again")
        digest = digest_of_file(path)
        if digest != entry.digest:
            raise BundleError(f"{path}: content differs from the manifest ({digest})", fix="fetch or build it again")
