"""The store: the bytes of all bundles, each blob once, named by its content.

    STORE/
      blobs/sha256/ab/ab34…    one file of some bundle, or a manifest; read-only, never changed
      metadata/…, targets/…    documents of a catalog published here (`registry/catalog/` owns them)

A manifest is a blob like any other; its digest is the bundle's name. It is added last, so a store that has a manifest
has had the whole bundle. Which bundles matter is the registry's knowledge; what nothing refers to may be removed.

`Store` holds what is the same for every place; a place (`folder.py`, `s3.py`) brings the operations on
blobs and documents.
"""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from registry.bundle.folder import Bundle, open_bundle
from registry.bundle.manifest import MANIFEST_BYTES_LIMIT, MANIFEST_NAME, Manifest
from registry.files.digests import copy_hashed, digest_of_bytes
from registry.files.staging import staged_folder
from targets.errors import BundleError, StoreError

# phipack-file:///srv/store/sha256:ab34…: what MLflow keeps as a version's source. Its server reads a plus in
# a scheme as a space, and refuses a path that goes through a link.
URI_PREFIX = "phipack-"
TIMESTAMP = "metadata/timestamp.json"  # the one document that changes: all others have a version or hash in their names
FOREVER = "public, max-age=31536000, immutable"  # Cache-Control of blobs and of documents that never change
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


@dataclass(frozen=True)
class Blob:
    """A blob's name, `sha256:<hex>`, and its size."""

    digest: str
    bytes: int


@dataclass(frozen=True)
class Document:
    """What a document holds, and a tag that another content would not have."""

    content: bytes
    tag: str


class Store(ABC):
    """Content-addressed blobs, and bundles made of them.

    The laws for a place:

    - a blob appears whole or not at all, and never changes; adding it twice is adding it once;
    - `open_blob` gives what is stored, unverified: whatever reads here hashes all it reads;
    - a blob's age is the time since it was added or kept last, by the store's own clock;
    - a document, small and named by its path, is written whole or not at all, and only over what its writer has seen.
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

    @abstractmethod
    def keep(self, digest: str) -> bool:
        """Start a blob's age anew; False where that can't be, for it is gone or another user's: add it then.

        Raises `StoreError`.
        """

    @abstractmethod
    def aged(self, seconds: float) -> Iterator[Blob]:
        """Blobs of at least this age, in no order. Raises `StoreError`."""

    @abstractmethod
    def remove(self, digest: str, *, seconds: float) -> bool:
        """Remove a blob, unless it is younger than that by now. Raises `StoreError`."""

    @abstractmethod
    def sweep(self, seconds: float, *, dry_run: bool) -> int:
        """Remove what broken writes have left for so long; give how many. Raises `StoreError`."""

    @abstractmethod
    def read_document(self, name: str) -> Document | None:
        """Read a document by its path (`metadata/timestamp.json`), or None where there is none. Raises `StoreError`."""

    @abstractmethod
    def write_document(self, name: str, content: bytes, *, replacing: str | None) -> bool:
        """Write a document where none is (`replacing=None`), or over the one that has the tag `replacing`.

        False, and nothing written, where another one is there. Of several writers at once, one succeeds. Raises
        `StoreError`.
        """

    def bundle_uri(self, digest: str) -> str:
        """Name a bundle together with the store that has it. `parse_bundle_uri` reads it back."""
        return f"{URI_PREFIX}{self.uri}/{digest}"

    def add_bundle(self, bundle: Bundle) -> str:
        """Add what the store lacks of a bundle, and give the bundle's digest.

        Raises:
            BundleError: a file is missing, or is not the one that the manifest names.
            StoreError: the store can't be written. Blobs that were added before stay: they are whole.
        """
        for name, blob in blobs_of(bundle.manifest):
            if not self.has_kept(blob):
                path = bundle.file(name)
                with _opened(path) as source:
                    self.put(source, blob, what=str(path))
        return bundle.digest

    def has_kept(self, blob: Blob) -> bool:
        """True where the blob is there in its size, and young again: nobody needs to add it. Raises `StoreError`."""
        return self.blob_bytes(blob.digest) == blob.bytes and self.keep(blob.digest)

    def has_bundle(self, digest: str) -> bool:
        """True where the manifest is there and readable, and every blob that it names is there in its size."""
        if self.blob_bytes(digest) is None:
            return False
        try:
            files = self.manifest(digest).files
        except (BundleError, StoreError):
            return False
        return all(self.blob_bytes(entry.digest) == entry.bytes for entry in files)

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
                self.copy_out(entry.digest, folder / entry.path, what=f"{entry.path} of bundle {digest}")
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


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        source = path.open("rb")
    except OSError as error:
        raise unreadable_file(str(path), error) from error
    with source:
        yield source


def blobs_of(manifest: Manifest) -> list[tuple[str, Blob]]:
    """A bundle's files as blobs, with their paths in the bundle; the manifest's own last."""
    raw = manifest.to_bytes()
    own = (MANIFEST_NAME, Blob(digest_of_bytes(raw), len(raw)))
    return [*((entry.path, Blob(entry.digest, entry.bytes)) for entry in manifest.files), own]


def unreadable_file(what: str, error: OSError) -> BundleError:
    """The error for a bundle's file that can't be read."""
    return BundleError(f"{what} can't be read: {error.strerror or error}", fix="build or fetch the bundle again")


def not_the_blob(what: str, size: int, digest: str, blob: Blob) -> BundleError:
    """The error for a source that has other bytes than the blob: `size` of them, with this digest."""
    return BundleError(
        f"{what}: {size} bytes, {digest}; the manifest says {blob.bytes} bytes, {blob.digest}",
        fix="the bundle was changed: build or fetch it again",
    )


def is_digest(text: str) -> bool:
    """True for `sha256:` and 64 hex digits."""
    return _DIGEST.fullmatch(text) is not None


def blob_path(digest: str) -> str:
    """Path of a blob below its store, or below a catalog's URL: `blobs/sha256/ab/ab34…`. Raises `StoreError`."""
    match = _DIGEST.fullmatch(digest)
    if match is None:
        raise StoreError(f"{digest!r} is not a digest", fix="write sha256: and 64 hex digits")
    return f"blobs/sha256/{match[1][:2]}/{match[1]}"


def caching_of(document: str) -> str:
    """How long a document may be cached, as HTTP says it: all but a catalog's timestamp never change."""
    return "no-cache" if document == TIMESTAMP else FOREVER


def check_document_name(name: str) -> str:
    """Give the name back where it is a path inside the store, of plain parts. Raises `StoreError`."""
    parts = PurePosixPath(name).parts
    if not parts or parts[0] in ("/", "blobs", "staging") or ".." in parts or str(PurePosixPath(name)) != name:
        raise StoreError(f"{name!r} is no name of a document", fix="name it as metadata/timestamp.json")
    return name
