"""The store in a folder, on a local or shared disk.

    STORE/
      blobs/sha256/ab/ab34…    as `protocol.py` says; read-only
      staging/HOST-PID-…       a blob or document being written; put in place in one rename
      documents.lock           held while a document is compared and replaced, a blob put in place, kept or removed

A blob's age is its file's, by the clock of the file system.
"""

from __future__ import annotations

import os
import tempfile
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from registry.files.digests import copy_hashed, digest_of_bytes
from registry.files.staging import abandoned, disk_errors, owner_mark
from registry.store.protocol import Blob, Document, Store, blob_path, check_document_name, not_the_blob, unreadable_file
from targets.errors import StoreError


class FolderStore(Store):
    """A store in a folder, on a local or shared disk."""

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.abspath(root))  # noqa: PTH100 - a link that names the store stays as given

    @property
    def uri(self) -> str:
        """`file:///…`, the path percent-encoded, links followed."""
        return "file://" + urllib.parse.quote(str(self.root.resolve()))

    def check_writable(self) -> None:
        """Write and remove an empty file, and what dead processes left."""
        with disk_errors(self.root, StoreError):
            self._sweep()
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
            with self._staged(0o444) as (out, staging):
                copied, digest = copy_hashed(source, out, lambda error: unreadable_file(what, error))
                if (digest, copied) != (blob.digest, blob.bytes):
                    raise not_the_blob(what, copied, digest, blob)
                _flush(out)
                path.parent.mkdir(parents=True, exist_ok=True)
                with self._locked():  # `remove` looks at the time of what it removes
                    staging.replace(path)
                _sync_folder(path.parent)

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
            digest = f"sha256:{path.name}"
            if (size := self.blob_bytes(digest)) is not None:  # else removed meanwhile
                yield Blob(digest, size)

    def place_of(self, digest: str) -> str:
        """Path of the blob's file."""
        return str(self._path(digest))

    def keep(self, digest: str) -> bool:
        """Set the file's time to now, of the file system's clock. Only its owner may, as it is read-only."""
        with disk_errors(self.root, StoreError), self._locked():
            try:
                os.utime(self._path(digest))
            except (FileNotFoundError, PermissionError):
                return False
        return True

    def aged(self, seconds: float) -> Iterator[Blob]:
        """Look at the files' times."""
        with disk_errors(self.root, StoreError):
            now = self._now()
            for blob in self.blobs():
                if (age := self._age(self._path(blob.digest), now)) is not None and age >= seconds:
                    yield blob

    def remove(self, digest: str, *, seconds: float) -> bool:
        """Look at its time and remove the file, while nobody can keep it."""
        path = self._path(digest)
        with disk_errors(self.root, StoreError):
            now = self._now()
            with self._locked():
                age = self._age(path, now)
                if age is None or age < seconds:
                    return False
                path.unlink()
        return True

    def sweep(self, seconds: float, *, dry_run: bool) -> int:
        """Remove files in `staging/` that dead processes of this machine left, and old ones, whoever left them."""
        with disk_errors(self.root, StoreError):
            if not dry_run:
                self._sweep()
            now = self._now()
            left = [path for path in (self.root / "staging").glob("*") if (self._age(path, now) or 0) >= seconds]
            for path in left if not dry_run else ():
                path.unlink(missing_ok=True)
        return len(left)

    def read_document(self, name: str) -> Document | None:
        """Read the file. Its tag is its digest."""
        path = self.root / check_document_name(name)
        try:
            content = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StoreError(f"{path} can't be read: {error.strerror}", fix="name a store that you may read") from error
        return Document(content, digest_of_bytes(content))

    def write_document(self, name: str, content: bytes, *, replacing: str | None) -> bool:
        """Compare and rename while holding the lock of all documents."""
        path = self.root / check_document_name(name)
        with disk_errors(self.root, StoreError), self._locked():
            there = self.read_document(name)
            if (None if there is None else there.tag) != replacing:
                return False
            with self._staged(0o644) as (out, staging):
                out.write(content)
                _flush(out)
                path.parent.mkdir(parents=True, exist_ok=True)
                staging.replace(path)
                _sync_folder(path.parent)
        return True

    @contextmanager
    def _locked(self) -> Iterator[None]:
        import fcntl  # POSIX, as the package is

        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / "documents.lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _path(self, digest: str) -> Path:
        return self.root / blob_path(digest)

    @contextmanager
    def _staged(self, mode: int) -> Iterator[tuple[BinaryIO, Path]]:
        """Give a new file in `staging/`, which is removed where it was not put in place."""
        handle, staging = self._new_staging_file()
        try:
            with os.fdopen(handle, "wb") as out:
                os.fchmod(handle, mode)
                yield out, staging
        finally:
            staging.unlink(missing_ok=True)

    def _new_staging_file(self) -> tuple[int, Path]:
        folder = self.root / "staging"
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=owner_mark(), dir=folder)
        return handle, Path(name)

    def _now(self) -> float:
        """The file system's time, which may be another machine's."""
        handle, path = self._new_staging_file()
        try:
            return os.fstat(handle).st_mtime
        finally:
            os.close(handle)
            path.unlink()

    @staticmethod
    def _age(path: Path, now: float) -> float | None:
        try:
            return now - path.stat().st_mtime
        except FileNotFoundError:
            return None

    def _sweep(self) -> None:
        """Remove what killed processes of this machine left in `staging/`."""
        for left in (self.root / "staging").glob("*"):
            if abandoned(left.name):
                left.unlink(missing_ok=True)


def _flush(out: BinaryIO) -> None:
    """Bring a file's bytes to the disk."""
    out.flush()
    os.fsync(out.fileno())


def _sync_folder(folder: Path) -> None:
    """Make a rename in the folder outlast a loss of power."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
