"""The store: the bytes of all bundles, each blob once, named by its content.

    STORE/
      blobs/sha256/ab/ab34…    one file of some bundle, or a manifest; read-only, never changed
      actions/KIND/KEY.json    records of jobs that were done (`actions.py`)
      metadata/…, targets/…    documents of a catalog published here (`registry/catalog/` owns them)

A manifest is a blob like any other; its digest is the bundle's name. It is added last, so a store that has a manifest
has had the whole bundle. Which bundles matter is the registry's knowledge; what nothing refers to may be removed.

`Store` holds what is the same for all kinds of stores; a kind (`folder.py`, `s3.py`) implements the operations on blobs
and documents.
"""

from __future__ import annotations

import hashlib
import io
import re
import shlex
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from registry.bundle.folder import Bundle, open_bundle
from registry.bundle.manifest import MANIFEST_BYTES_LIMIT, MANIFEST_NAME, Manifest
from registry.files.digests import copy_hashed, digest_of_bytes
from registry.files.staging import disk_errors, staged_folder
from registry.transfer.bundle_download import DEFAULT_OPTIONS, DownloadOptions
from registry.transfer.destination import existing_bundle
from registry.transfer.download import TransferStatistics
from registry.transfer.partial import partial_folder
from targets.errors import BundleError, StoreError, StoreUnreachableError
from targets.progress import Progress, Step, silent, with_subject

# phipack-file:///srv/store/sha256:ab34…: what MLflow keeps as a version's source. Its server reads a plus in
# a scheme as a space, and refuses a path that goes through a link.
URI_PREFIX = "phipack-"
TIMESTAMP = "metadata/timestamp.json"  # the one document that changes: all others have a version or hash in their names
ACTIONS = "actions/"  # where documents are that may change and go
FOREVER = "public, max-age=31536000, immutable"  # Cache-Control of blobs and of documents that never change
DOCUMENT_BYTES_LIMIT = 64 << 20
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


@dataclass(frozen=True)
class Blob:
    """A blob's name, `sha256:<hex>`, and its size."""

    digest: str
    bytes: int


@dataclass(frozen=True)
class Document:
    """A document's content, and a tag that changes with it."""

    content: bytes
    tag: str


class Store(ABC):
    """Content-addressed blobs, and bundles made of them.

    The laws for every kind:

    - a blob appears whole or not at all, and never changes; adding it twice is adding it once;
    - `open_blob` returns what is stored, unverified: whoever reads hashes all that it reads;
    - a blob's age is the time since it was added or kept last, by the store's own clock;
    - a document, small and named by its path, is written whole or not at all, and only over what its writer has seen;
    - a store that does not answer raises `StoreUnreachableError`, any other failure a plain `StoreError`.
    """

    @property
    @abstractmethod
    def uri(self) -> str:
        """Return the store's own URI, which `open_store` reads back."""

    @abstractmethod
    def exists(self) -> bool:
        """Return False where nothing was ever written, as at a misspelt place. Raises `StoreError`."""

    @abstractmethod
    def check_writable(self) -> None:
        """Raise `StoreError` where nothing can be added. Called before long work."""

    @abstractmethod
    def blob_bytes(self, digest: str) -> int | None:
        """Return the size of a blob, or None where it is not in the store."""

    @abstractmethod
    def put(self, source: BinaryIO, blob: Blob, *, what: str) -> None:
        """Add a blob. Raises `BundleError` naming `what` where the source is not the blob; `StoreError`."""

    @abstractmethod
    def open_blob(self, digest: str) -> BinaryIO:
        """Open a blob for reading. Raises `StoreError` where it is missing."""

    @abstractmethod
    def blobs(self) -> Iterator[Blob]:
        """Yield all blobs, in no order."""

    @abstractmethod
    def location_of(self, digest: str) -> str:
        """Return the path or URI of a blob, for messages."""

    @abstractmethod
    def keep(self, digest: str) -> bool:
        """Restart a blob's age; False where that is not possible, as it is gone or another user's: add it then.

        Raises `StoreError`.
        """

    @abstractmethod
    def aged(self, seconds: float) -> Iterator[Blob]:
        """Yield blobs of at least this age, in no order. Raises `StoreError`."""

    @abstractmethod
    def remove(self, digest: str, *, seconds: float) -> bool:
        """Remove a blob, unless it is younger than `seconds` by now. Raises `StoreError`."""

    @abstractmethod
    def sweep(self, seconds: float, *, dry_run: bool) -> int:
        """Remove what broken writes left at least that long ago; return how many. Raises `StoreError`."""

    @abstractmethod
    def read_document(self, name: str) -> Document | None:
        """Return a document by its path (`metadata/timestamp.json`), None where there is none. Raises `StoreError`."""

    @abstractmethod
    def write_document(self, name: str, content: bytes, *, replacing: str | None) -> bool:
        """Write a document where there is none (`replacing=None`), or over the one that has the tag `replacing`.

        Returns False, with nothing written, where another one is there: of several writers at once, one succeeds.
        Raises `StoreError`.
        """

    @abstractmethod
    def documents(self, below: str, *, seconds: float = 0.0) -> Iterator[str]:
        """Yield the names of documents below a path (`actions/`) that were written at least so many seconds ago.

        In no order; the age by the store's own clock. With `seconds=0`, all of them, and nothing is written. Raises
        `StoreError`.
        """

    @abstractmethod
    def remove_document(self, name: str, *, seconds: float) -> bool:
        """Remove a document, unless it was written less than `seconds` ago by now. Raises `StoreError`."""

    def bundle_uri(self, digest: str) -> str:
        """Return the URI of a bundle in this store. `parse_artifact_uri` reads it back."""
        return f"{URI_PREFIX}{self.uri}/{digest}"

    def add_bundle(self, bundle: Bundle, *, on_progress: Progress = silent) -> str:
        """Add the files of a bundle that are not in the store yet, and return the bundle's digest.

        `on_progress` receives `Step("upload", done, total, "bytes", subject=path)` for each file, those that are in the
        store already included.

        Raises:
            BundleError: a file is missing, or is not the one that the manifest names.
            StoreError: the store can't be written. Blobs that were added before stay: they are whole.
        """
        for name, blob in blobs_of(bundle.manifest):
            if self.has_kept(blob):
                on_progress(Step("upload", blob.bytes, blob.bytes, "bytes", name))
                continue
            path = bundle.file(name)
            with _opened(path) as source:
                counted = _Counted(source, Step("upload", 0, blob.bytes, "bytes", name), on_progress)
                self.put(cast("BinaryIO", counted), blob, what=str(path))
        return bundle.digest

    def has_kept(self, blob: Blob) -> bool:
        """Return True where the blob is in the store with its size; its age restarts then. Raises `StoreError`."""
        return self.blob_bytes(blob.digest) == blob.bytes and self.keep(blob.digest)

    def has_bundle(self, digest: str) -> bool:
        """Return True where the manifest is there and readable, and every blob that it names is there with its size.

        Raises `StoreUnreachableError`.
        """
        if self.blob_bytes(digest) is None:
            return False
        try:
            files = self.manifest(digest).files
        except StoreUnreachableError:
            raise
        except (BundleError, StoreError):
            return False
        return all(self.blob_bytes(entry.digest) == entry.bytes for entry in files)

    def manifest(self, digest: str) -> Manifest:
        """Return a bundle's manifest, verified. Raises `StoreError` where it is missing or damaged."""
        with self.open_blob(digest) as source:
            try:
                raw = source.read(MANIFEST_BYTES_LIMIT + 1)
            except OSError as error:
                raise self._unreadable(digest, error) from error
        if "sha256:" + hashlib.sha256(raw).hexdigest() != digest:
            raise self._damaged(digest, f"{MANIFEST_NAME} of bundle {digest}")
        return Manifest.parse(raw, source=self.location_of(digest))

    def materialise(
        self, digest: str, destination: Path, *, replace: bool = False, on_progress: Progress = silent
    ) -> Bundle:
        """Put a bundle in place, every byte hashed on the way. Nothing is left at `destination` on an error.

        `on_progress` receives `Step("download", done, total, "bytes", subject=path)` for each file.

        Raises:
            StoreError: the bundle is not in the store, or a blob is damaged: names the blob and the bundle's file.
            BuildError: `destination` exists (unless `replace`) or can't be written.
        """
        manifest = self.manifest(digest)
        with staged_folder(destination, replace=replace) as folder:
            for entry in manifest.files:
                what, report = f"{entry.path} of bundle {digest}", with_subject(on_progress, entry.path)
                self.copy_out(entry.digest, folder / entry.path, what=what, on_progress=report)
            (folder / MANIFEST_NAME).write_bytes(manifest.to_bytes())
        return open_bundle(destination)

    def download(
        self, digest: str, out: Path, options: DownloadOptions = DEFAULT_OPTIONS, *, on_progress: Progress = silent
    ) -> tuple[Bundle, TransferStatistics]:
        """Put a bundle in place as `materialise` does, and return where its bytes came from.

        Another process that puts the same there is waited for.
        """
        if options.offer:
            options.require(self.manifest(digest), digest)
        with disk_errors(out), partial_folder(out, digest, on_progress):
            bundle = existing_bundle(out, digest, replace=options.replace)
            if bundle is None:
                bundle = self.materialise(digest, out, replace=options.replace, on_progress=on_progress)
        return bundle, TransferStatistics()

    def copy_out(self, digest: str, path: Path, *, what: str, on_progress: Progress = silent) -> None:
        """Write a blob to a file, hashing it. Raises `StoreError` where a byte differs; the file is then not usable.

        `on_progress` receives `Step("download", done, total, "bytes")`.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        step = Step("download", 0, self.blob_bytes(digest) or 0, "bytes")
        with self.open_blob(digest) as source, path.open("xb") as out:
            counted = cast("BinaryIO", _Counted(source, step, on_progress))
            _, copied_digest = copy_hashed(counted, out, lambda error: self._unreadable(digest, error))
        if copied_digest != digest:
            raise self._damaged(digest, what)

    def renewal(self, digest: str) -> str:
        """Return the commands that replace a damaged blob: one of the right size counts as there until it is gone."""
        location = self.location_of(digest)
        remove = "aws s3 rm" if location.startswith("s3://") else "rm -f"
        return f"{remove} {shlex.quote(location)} && phipack release"

    def _damaged(self, digest: str, what: str) -> StoreError:
        return StoreError(
            f"{what}: the bytes in the store are not the ones that were added:"
            f" blob {self.location_of(digest)} is damaged",
            fix=self.renewal(digest),
        )

    def _unreadable(self, digest: str, error: OSError) -> StoreError:
        problem = f"{self.location_of(digest)} can't be read: {error}"
        if isinstance(error, ConnectionError):
            return StoreUnreachableError(problem, fix="check the network, then try again")
        return StoreError(problem, fix="check the disk, and that you may read the store's files")


class _Counted(io.RawIOBase):
    """A file that is read from its start to its end, reporting how far it was read."""

    def __init__(self, source: BinaryIO, step: Step, on_progress: Progress) -> None:
        self._source, self._step, self._on_progress = source, step, on_progress
        on_progress(step)

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer, less at the end of the file."""
        count: int = self._source.readinto(buffer)  # type: ignore[attr-defined]
        if count:
            self._step = replace(self._step, done=self._step.done + count)
            self._on_progress(self._step)
        return count


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        source = path.open("rb")
    except OSError as error:
        raise unreadable_file(str(path), error) from error
    with source:
        yield source


def blobs_of(manifest: Manifest) -> list[tuple[str, Blob]]:
    """Return a bundle's files as blobs, with their paths in the bundle; the manifest's own last."""
    raw = manifest.to_bytes()
    own = (MANIFEST_NAME, Blob(digest_of_bytes(raw), len(raw)))
    return [*((entry.path, Blob(entry.digest, entry.bytes)) for entry in manifest.files), own]


def unreadable_file(what: str, error: OSError) -> BundleError:
    """Return the error for a bundle's file that can't be read."""
    return BundleError(f"{what} can't be read: {error.strerror or error}", fix="build or fetch the bundle again")


def not_the_blob(what: str, size: int, digest: str, blob: Blob) -> BundleError:
    """Return the error for a source that has other bytes than the blob: `size` of them, with this digest."""
    return BundleError(
        f"{what}: {size} bytes, {digest}; the manifest says {blob.bytes} bytes, {blob.digest}",
        fix="build or fetch the bundle again: this file was changed since",
    )


def is_digest(text: str) -> bool:
    """Return True for `sha256:` and 64 hex digits."""
    return _DIGEST.fullmatch(text) is not None


def blob_path(digest: str) -> str:
    """Return the path of a blob below its store or a catalog's URL: `blobs/sha256/ab/ab34…`. Raises `StoreError`."""
    match = _DIGEST.fullmatch(digest)
    if match is None:
        raise StoreError(f"{digest!r} is not a digest", fix="write sha256: and 64 hex digits")
    return f"blobs/sha256/{match[1][:2]}/{match[1]}"


def caching_of(name: str) -> str:
    """Return the `Cache-Control` of a blob or document: all but a catalog's timestamp and records never change."""
    return "no-cache" if name == TIMESTAMP or name.startswith(ACTIONS) else FOREVER


def media_type_of(name: str) -> str:
    """Return the `Content-Type` of a blob or document, by its path in the store."""
    return "application/json" if name.endswith(".json") else "application/octet-stream"


def too_large(name: str, size: int) -> StoreError:
    """Return the error for a document that has more bytes than any of phipack's."""
    return StoreError(
        f"{name} has {size} bytes, more than any document of phipack",
        fix="remove it, if it is not yours; else name another store with --store",
    )


def check_document_name(name: str) -> str:
    """Return the name where it is a path inside the store, of plain parts. Raises `StoreError`."""
    parts = PurePosixPath(name).parts
    if not parts or parts[0] in ("/", "blobs", "staging") or ".." in parts or str(PurePosixPath(name)) != name:
        raise StoreError(f"{name!r} is not a document's name", fix="use a path like metadata/timestamp.json")
    return name
