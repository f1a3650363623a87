"""The store: the bytes of all bundles, each blob once, named by its content.

    STORE/
      blobs/sha256/ab/ab34…    one file of some bundle, or a manifest; read-only, never changed
      staging/HOST-PID-…       a blob being written; becomes a blob in one rename

A manifest is a blob like any other; its digest is the bundle's name. It is added last, so a store that has a manifest
has had the whole bundle. Which bundles matter is the registry's knowledge; what nothing refers to may be removed.

`Store` holds what is the same for every place; a place (here: a folder) brings the five operations on blobs.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import urllib.parse
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from registry.bundle import MANIFEST_BYTES_LIMIT, MANIFEST_NAME, Bundle, Manifest, copy_hashed, open_bundle
from registry.placement import abandoned, disk_errors, owner_mark, staged_folder
from targets.errors import BundleError, StoreError

DEFAULT_STORE = Path(".phipack/store")
# phipack-file:///srv/store/sha256:ab34…: what MLflow keeps as a version's source. Its server reads a plus in
# a scheme as a space, and refuses a path that goes through a link.
URI_PREFIX = "phipack-"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Blob:
    """A blob's name, `sha256:<hex>`, and its size."""

    digest: str
    bytes: int


class Store(ABC):
    """Content-addressed blobs, and bundles made of them.

    The laws for a place:

    - a blob appears whole or not at all, and never changes; adding it twice is adding it once;
    - `open_blob` gives what is stored, unverified: whatever reads here hashes all it reads.
    """

    @property
    @abstractmethod
    def uri(self) -> str:
        """The store's own URI, which `open_store` reads back."""

    @abstractmethod
    def check_writable(self) -> None:
        """Raise `StoreError` where nothing can be added: asked before long work."""

    @abstractmethod
    def blob_bytes(self, digest: str) -> int | None:
        """Size of a blob, or None where the store lacks it."""

    @abstractmethod
    def put(self, source: BinaryIO, blob: Blob, *, what: str) -> None:
        """Add a blob. Raises `BundleError` naming `what` where the source is not the blob; `StoreError`."""

    @abstractmethod
    def open_blob(self, digest: str) -> BinaryIO:
        """Open a blob for reading. Raises `StoreError` where it is missing."""

    @abstractmethod
    def blobs(self) -> Iterator[Blob]:
        """All blobs, in no order."""

    @abstractmethod
    def place_of(self, digest: str) -> str:
        """Where a blob lies, for messages."""

    def bundle_uri(self, digest: str) -> str:
        """Name a bundle together with the store that has it. `parse_bundle_uri` reads it back."""
        return f"{URI_PREFIX}{self.uri}/{digest}"

    def add_bundle(self, bundle: Bundle) -> str:
        """Add what the store lacks of a bundle, and give the bundle's digest.

        Raises:
            BundleError: a file is missing, or is not the one that the manifest names.
            StoreError: the store can't be written. Blobs that were added before stay: they are whole.
        """
        for entry in bundle.manifest.files:
            blob = Blob(f"sha256:{entry.sha256}", entry.bytes)
            if self.blob_bytes(blob.digest) == blob.bytes:
                continue
            path = bundle.file(entry.path)
            with _opened(path) as source:
                self.put(source, blob, what=str(path))
        raw = bundle.manifest.to_bytes()
        if self.blob_bytes(bundle.digest) != len(raw):
            with _opened(bundle.file(MANIFEST_NAME)) as source:
                self.put(source, Blob(bundle.digest, len(raw)), what=str(bundle.file(MANIFEST_NAME)))
        return bundle.digest

    def has_bundle(self, digest: str) -> bool:
        """True where the manifest is there and readable, and every blob that it names is there in its size."""
        if self.blob_bytes(digest) is None:
            return False
        try:
            files = self.manifest(digest).files
        except (BundleError, StoreError):
            return False
        return all(self.blob_bytes(f"sha256:{entry.sha256}") == entry.bytes for entry in files)

    def manifest(self, digest: str) -> Manifest:
        """Read a bundle's manifest, verified. Raises `StoreError` where it is missing or damaged."""
        with self.open_blob(digest) as source:
            try:
                raw = source.read(MANIFEST_BYTES_LIMIT + 1)
            except OSError as error:
                raise self._unreadable(digest, error) from error
        if "sha256:" + hashlib.sha256(raw).hexdigest() != digest:
            raise self._damaged(digest, f"{MANIFEST_NAME} of bundle {digest}")
        return Manifest.parse(raw, source=self.place_of(digest))

    def materialise(self, digest: str, destination: Path, *, replace: bool = False) -> Bundle:
        """Put a bundle in place, every byte hashed on the way. Nothing is left at `destination` on an error.

        Raises:
            StoreError: the bundle is not in the store, or a blob is damaged: names the blob and the bundle's file.
            BuildError: `destination` exists (unless `replace`) or can't be written.
        """
        manifest = self.manifest(digest)
        with staged_folder(destination, replace=replace) as folder:
            for entry in manifest.files:
                self.copy_out(f"sha256:{entry.sha256}", folder / entry.path, what=f"{entry.path} of bundle {digest}")
            (folder / MANIFEST_NAME).write_bytes(manifest.to_bytes())
        return open_bundle(destination)

    def copy_out(self, digest: str, path: Path, *, what: str) -> None:
        """Write a blob to a file, hashing it. Raises `StoreError` where a byte differs; the file is then no good."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with self.open_blob(digest) as source, path.open("wb") as out:
            _, copied_digest = copy_hashed(source, out, lambda error: self._unreadable(digest, error))
        if copied_digest != digest:
            raise self._damaged(digest, what)

    def _damaged(self, digest: str, what: str) -> StoreError:
        place = self.place_of(digest)
        return StoreError(
            f"{what}: the store's bytes are not the ones that were added: blob {place} is damaged",
            fix=f"rm -f {place}  and run phipack release again, which adds it anew",
        )

    def _unreadable(self, digest: str, error: OSError) -> StoreError:
        return StoreError(f"{self.place_of(digest)} can't be read: {error}", fix="see to the disk or the network")


class FolderStore(Store):
    """A store in a folder, on a local or shared disk."""

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.abspath(root))  # noqa: PTH100 - a link that names the store stays as given

    @property
    def uri(self) -> str:
        """`file:///…`, the path percent-encoded, links followed."""
        return "file://" + urllib.parse.quote(str(self.root.resolve()))

    def check_writable(self) -> None:
        """Write and remove an empty file."""
        with disk_errors(self.root, StoreError):
            handle, path = self._new_staging_file()
            os.close(handle)
            path.unlink()

    def blob_bytes(self, digest: str) -> int | None:
        """Size of the blob's file."""
        try:
            return self._path(digest).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StoreError(f"{self.root} can't be read: {error}", fix="name a store that you may read") from error

    def put(self, source: BinaryIO, blob: Blob, *, what: str) -> None:
        """Copy into `staging/`, hashing; then one rename. Two processes adding the same blob both succeed."""
        path = self._path(blob.digest)
        with disk_errors(self.root, StoreError):
            self._sweep()
            handle, staging = self._new_staging_file()
            try:
                with os.fdopen(handle, "wb") as out:
                    copied, digest = copy_hashed(source, out, lambda error: _unreadable_file(what, error))
                    if (digest, copied) != (blob.digest, blob.bytes):
                        raise BundleError(
                            f"{what}: {copied} bytes, {digest}; the manifest says {blob.bytes} bytes, {blob.digest}",
                            fix="the bundle was changed: build or fetch it again",
                        )
                    out.flush()
                    os.fchmod(out.fileno(), 0o444)
                    os.fsync(out.fileno())
                path.parent.mkdir(parents=True, exist_ok=True)
                staging.replace(path)
                _sync_folder(path.parent)
            finally:
                staging.unlink(missing_ok=True)

    def open_blob(self, digest: str) -> BinaryIO:
        """Open the blob's file."""
        path = self._path(digest)
        try:
            return path.open("rb")
        except FileNotFoundError as error:
            problem = f"it lacks blob {digest}" if self.root.is_dir() else "no such folder"
            raise StoreError(
                f"store {self.root}: {problem}", fix="name the right store with --store, or run phipack release again"
            ) from error
        except OSError as error:
            raise StoreError(f"{path} can't be read: {error.strerror}", fix="name a store that you may read") from error

    def blobs(self) -> Iterator[Blob]:
        """Walk the folders."""
        for path in (self.root / "blobs" / "sha256").glob("??/*"):
            yield Blob(f"sha256:{path.name}", path.stat().st_size)

    def place_of(self, digest: str) -> str:
        """Path of the blob's file."""
        return str(self._path(digest))

    def _path(self, digest: str) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise StoreError(f"{digest!r} is not a digest", fix="write sha256: and 64 hex digits")
        name = digest.removeprefix("sha256:")
        return self.root / "blobs" / "sha256" / name[:2] / name

    def _new_staging_file(self) -> tuple[int, Path]:
        folder = self.root / "staging"
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=owner_mark(), dir=folder)
        return handle, Path(name)

    def _sweep(self) -> None:
        """Remove what killed processes of this machine left in `staging/`."""
        for left in (self.root / "staging").glob("*"):
            if abandoned(left.name):
                left.unlink(missing_ok=True)


def open_store(location: str | Path | None = None) -> Store:
    """Open the store at a folder's path or `file://` URI; `.phipack/store` by default. Raises `StoreError`."""
    if location is None:
        return FolderStore(DEFAULT_STORE)
    text = str(location).removeprefix(URI_PREFIX)
    scheme, separator, rest = text.partition("://")
    if not separator:
        return FolderStore(Path(text))
    if scheme == "file" and rest.startswith("/"):
        return FolderStore(Path(urllib.parse.unquote(rest)))
    raise StoreError(f"{text!r}: no store of the kind {scheme!r}", fix="give a folder, or file:///its/absolute/path")


def parse_bundle_uri(uri: str) -> tuple[str, str]:
    """Split `phipack-file:///srv/store/sha256:…` into the store's URI and the bundle's digest. Raises `StoreError`."""
    store_uri, _, digest = uri.rpartition("/")
    if not uri.startswith(URI_PREFIX) or not store_uri or not _DIGEST.fullmatch(digest):
        raise StoreError(f"{uri!r} does not name a bundle in a store", fix="register the version with phipack")
    return store_uri.removeprefix(URI_PREFIX), digest


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        source = path.open("rb")
    except OSError as error:
        raise _unreadable_file(str(path), error) from error
    with source:
        yield source


def _unreadable_file(what: str, error: OSError) -> BundleError:
    return BundleError(f"{what} can't be read: {error.strerror}", fix="build or fetch the bundle again")


def _sync_folder(folder: Path) -> None:
    """Make a rename in the folder outlast a loss of power."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
