"""The store in a folder, on a local or shared disk.

    STORE/
      blobs/sha256/ab/ab34…    as `protocol.py` says; read-only
      staging/HOST-PID-…       a blob or document being written; put in place in one rename
      actions/KIND/KEY.json    records of jobs; in folders that not everybody may write
      documents.lock           held while a document is compared and replaced, a blob put in place, kept or removed

A blob's age is its file's, by the clock of the file system.
"""

from __future__ import annotations

import os
import urllib.parse
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from registry.files.atomic import UnfinishedFile, unfinished_file
from registry.files.digests import copy_hashed, digest_of_bytes
from registry.files.lock import file_lock
from registry.files.lock_wait import LockWait
from registry.files.owned import NotOwnedError, no_link, require_closed_to_everybody
from registry.files.staging import abandoned, disk_errors
from registry.store.protocol import (
    ACTIONS,
    DOCUMENT_BYTES_LIMIT,
    Blob,
    Document,
    Store,
    blob_path,
    check_document_name,
    is_digest,
    not_the_blob,
    too_large,
    unreadable_file,
)
from targets.bounded_file import TooLargeError, read_at_most
from targets.errors import StoreError, StoreUnreachableError
from targets.progress import Notice, Progress, silent
from targets.this_user import user_name

_LOCK_SECONDS = 600.0
_CLOSED = 0o775  # folders of records: whatever the umask, not everybody may write there
_READ_FIX = "check the permissions of the store's folder, or name another store with --store"


class FolderStore(Store):
    """A store in a folder. `on_progress` receives a notice of whom a change waits for, and of a folder that is new."""

    def __init__(self, root: Path, on_progress: Progress = silent) -> None:
        self.root = Path(os.path.abspath(root))  # noqa: PTH100 - a link that names the store stays as given
        self.on_progress = on_progress

    @property
    def uri(self) -> str:
        """`file:///…`, the path percent-encoded, links followed."""
        return "file://" + urllib.parse.quote(str(self.root.resolve()))

    def exists(self) -> bool:
        """Look whether the folder is there."""
        return self.root.is_dir()

    def check_writable(self) -> None:
        """Create and remove an empty file; remove what dead processes left."""
        with disk_errors(self.root, StoreError):
            self._sweep()
            with self._staged():
                pass

    def blob_bytes(self, digest: str) -> int | None:
        """Return the size of the blob's file."""
        try:
            return self._path(digest).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StoreError(f"{self.root} can't be read: {error}", fix=_READ_FIX) from error

    def put(self, source: BinaryIO, blob: Blob, *, what: str) -> None:
        """Copy into `staging/`, hashing; then one rename. Two processes adding the same blob both succeed."""
        path = self._path(blob.digest)
        with disk_errors(self.root, StoreError):
            self._sweep()
            with self._staged(0o444) as file:
                copied, digest = copy_hashed(source, file.out, lambda error: unreadable_file(what, error))
                if (digest, copied) != (blob.digest, blob.bytes):
                    raise not_the_blob(what, copied, digest, blob)
                file.flush()
                path.parent.mkdir(parents=True, exist_ok=True)
                with self._locked():  # `remove` looks at the time of what it removes
                    file.move_to(path)

    def open_blob(self, digest: str) -> BinaryIO:
        """Open the blob's file."""
        path = self._path(digest)
        try:
            return path.open("rb")
        except FileNotFoundError as error:
            problem = f"blob {digest} is missing" if self.root.is_dir() else "no such folder"
            raise StoreError(
                f"store {self.root}: {problem}",
                fix="name the right store with --store; if it was moved, run phipack registry relocate; otherwise "
                "run phipack release again",
            ) from error
        except OSError as error:
            raise StoreError(f"{path} can't be read: {error.strerror}", fix=_READ_FIX) from error

    def blobs(self) -> Iterator[Blob]:
        """Walk the folders."""
        for path in (self.root / "blobs" / "sha256").glob("??/*"):
            digest = f"sha256:{path.name}"
            # Others are a file manager's or a file system's own; None: removed meanwhile.
            if is_digest(digest) and (size := self.blob_bytes(digest)) is not None:
                yield Blob(digest, size)

    def location_of(self, digest: str) -> str:
        """Return the path of the blob's file."""
        return str(self._path(digest))

    def keep(self, digest: str) -> bool:
        """Set the file's time to the file system's now. Only the file's owner may, as it is read-only."""
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
        return self._remove_aged(self._path(digest), seconds)

    def sweep(self, seconds: float, *, dry_run: bool) -> int:
        """Remove files in `staging/` that dead processes of this machine left, and old ones, whoever left them."""
        with disk_errors(self.root, StoreError):
            if not dry_run:
                self._sweep()
            now = self._now()
            left = [path for path in self._staging.glob("*") if (self._age(path, now) or 0) >= seconds]
            for path in left if not dry_run else ():
                path.unlink(missing_ok=True)
        return len(left)

    def read_document(self, name: str) -> Document | None:
        """Read the file. Its tag is its digest."""
        path = self.root / check_document_name(name)
        try:
            self._require_closed(name)
            content = read_at_most(path, DOCUMENT_BYTES_LIMIT)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except NotOwnedError as error:
            raise StoreError(error.problem, fix=error.fix) from error
        except TooLargeError as error:
            raise too_large(str(path), path.stat().st_size) from error
        except OSError as error:
            raise StoreError(f"{path} can't be read: {error.strerror}", fix=_READ_FIX) from error
        return Document(content, digest_of_bytes(content))

    def write_document(self, name: str, content: bytes, *, replacing: str | None) -> bool:
        """Compare and rename while holding the lock of all documents."""
        path = self.root / check_document_name(name)
        with disk_errors(self.root, StoreError), self._locked():
            there = self.read_document(name)
            if (None if there is None else there.tag) != replacing:
                return False
            self._sweep()
            with self._staged() as file:
                file.out.write(content)
                if name.startswith(ACTIONS):
                    for folder in (path.parents[1], path.parent):
                        folder.mkdir(_CLOSED, exist_ok=True)
                path.parent.mkdir(parents=True, exist_ok=True)
                file.move_to(path)
        return True

    def documents(self, below: str, *, seconds: float = 0.0) -> Iterator[str]:
        """Walk the folders, and look at the files' times."""
        with disk_errors(self.root, StoreError):
            now = self._now() if seconds > 0 else 0.0
            for path in (self.root / below).rglob("*"):
                if path.is_file() and (seconds <= 0 or (self._age(path, now) or 0.0) >= seconds):
                    yield path.relative_to(self.root).as_posix()

    def remove_document(self, name: str, *, seconds: float) -> bool:
        """Look at its time and remove the file, while nobody can write it."""
        return self._remove_aged(self.root / check_document_name(name), seconds)

    def _remove_aged(self, path: Path, seconds: float) -> bool:
        with disk_errors(self.root, StoreError):
            now = self._now()
            with self._locked():
                age = self._age(path, now)
                if age is None or age < seconds:
                    return False
                path.unlink()
        return True

    def _require_closed(self, name: str) -> None:
        """Raise `NotOwnedError` where everybody could have written a record: what it says was measured is believed."""
        if name.startswith(ACTIONS):
            path = self.root / name
            for folder in (path.parents[1], path.parent):
                require_closed_to_everybody(folder)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._make_root()
        path = self.root / "documents.lock"
        waiting = LockWait(user_name(), _LOCK_SECONDS, StoreUnreachableError, on_progress=self.on_progress)
        with ExitStack() as stack:
            with waiting:
                stack.enter_context(file_lock(path, on_wait=waiting.reporter("another phipack", str(path))))
            yield

    def _path(self, digest: str) -> Path:
        return self.root / blob_path(digest)

    @contextmanager
    def _staged(self, mode: int = 0o644) -> Iterator[UnfinishedFile]:
        """Yield a new file in `staging/`, which is removed unless it is put in place."""
        folder = self._staging
        self._make_root()
        folder.mkdir(exist_ok=True)
        with unfinished_file(folder, mode=mode) as file:
            yield file

    def _make_root(self) -> None:
        if not self.exists():
            self.root.mkdir(parents=True, exist_ok=True)
            self.on_progress(Notice(f"a new store: {self.uri}"))

    @property
    def _staging(self) -> Path:
        """The folder `staging`, itself: what is swept there must not lie elsewhere. Raises `NotOwnedError`."""
        return no_link(self.root / "staging")

    def _now(self) -> float:
        """Return the file system's time, which may be another machine's."""
        with self._staged() as file:
            return os.fstat(file.out.fileno()).st_mtime

    @staticmethod
    def _age(path: Path, now: float) -> float | None:
        try:
            return now - path.stat().st_mtime
        except FileNotFoundError:
            return None

    def _sweep(self) -> None:
        """Remove what killed processes of this machine left in `staging/`."""
        for left in self._staging.glob("*"):
            if abandoned(left.name):
                left.unlink(missing_ok=True)
