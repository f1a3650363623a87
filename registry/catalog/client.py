"""A catalog on the web, as a phone's installer sees it: verified from a trusted root on, whoever serves it.

python-tuf's client (`tuf.ngclient`) follows TUF 1.0, chapter 5: roots one after the other, then timestamp, snapshot,
targets. It refuses rollback, freeze, mix-and-match and tampering. What it trusted last is kept, to detect rollbacks:

    STATE/catalogs/HASH-OF-URL/
      metadata/…               python-tuf's
      documents/HASH           channels and releases that were read before
      lock                     held while metadata is updated
    STATE/install-id           a random name of this installation, for staged rollout

All of it must be this user's own, and no link: whoever can write there decides what is trusted.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from registry.bundle.manifest import FileEntry, Manifest
from registry.catalog.choice import Resolved
from registry.catalog.documents import (
    DOCUMENT_BYTES_LIMIT,
    DeltaEntry,
    Documents,
    hashed_path,
    is_document,
    naming_hash,
)
from registry.files.atomic import write_atomically
from registry.files.digests import digest_of_bytes
from registry.files.lock import file_lock
from registry.files.lock_wait import LockWait
from registry.files.owned import open_found, private_folder, require_not_planted, require_own_folder
from registry.files.staging import disk_errors
from registry.store.protocol import blob_path
from registry.transfer.http import HttpClient, read_document
from registry.transfer.remote import RemoteDelta, split_url
from targets.errors import BundleError, FetchError, FetchUnreachableError
from targets.progress import Progress, silent
from targets.this_user import home_folder, unknown_user, user_name

if TYPE_CHECKING:
    from tuf.api.exceptions import RepositoryError
    from tuf.api.metadata import TargetFile
    from tuf.ngclient import FetcherInterface, Updater

LOCK_SECONDS = 900.0  # of one refresh, which takes seconds, and minutes over a slow network
_INSTALL_ID_BYTES = 200


@dataclass(frozen=True)
class CatalogTrust:
    """Whom a client trusts.

    `root`: the trusted root's file, as the publisher handed it out (`1.root.json` or a later one); needed the first
    time, afterwards the last trusted root is kept. `state`: the folder where trust and the installation's name are
    kept; by default `PHIPACK_STATE`, `XDG_STATE_HOME/phipack`, or `~/.local/state/phipack`.
    """

    root: Path | None = None
    state: Path | None = None


@dataclass
class Catalog(Documents):
    """A catalog whose metadata is verified and up to date. `open_catalog` returns one. Its errors are `FetchError`."""

    url: str
    client: HttpClient
    folder: Path

    def bundle(self, resolved: Resolved) -> CatalogBundle:
        """Read the manifest of a query's result. Raises `FetchError` where it is not the one that was signed."""
        url = f"{self.url}/{blob_path(resolved.entry.bundle)}"
        raw = read_document(self.client, url, resolved.entry.manifest_bytes)
        if digest_of_bytes(raw) != resolved.entry.bundle:
            raise _mismatch(url)
        try:
            manifest = Manifest.parse(raw, source=url)
        except BundleError as error:
            raise FetchError(error.problem, fix="report it to the catalog's publisher, or update phipack") from error
        return CatalogBundle(self.url, url, manifest, resolved.entry.deltas)

    def _read(self, path: str, file: TargetFile) -> bytes:
        """Return a document that was kept, or download it; never one that has another hash."""
        kept = self.folder / "documents" / naming_hash(file)
        if kept.is_file() and is_document(file, raw := kept.read_bytes()):
            return raw
        url = f"{self.url}/targets/{hashed_path(path, file)}"
        raw = read_document(self.client, url, min(file.length, DOCUMENT_BYTES_LIMIT))
        if not is_document(file, raw):
            raise _mismatch(url)
        with disk_errors(self.folder, FetchError):
            private_folder(kept.parent)
            write_atomically(kept, raw, mode=0o600)
        return raw

    def _malformed(self, path: str, why: str) -> FetchError:
        return FetchError(
            f"{self.url}: this version of phipack can't read document {path}: {why}",
            fix="install a newer phipack",
        )


@dataclass(frozen=True)
class CatalogBundle:
    """A bundle of a catalog: a `Remote`."""

    base: str
    manifest_url: str
    manifest: Manifest
    offered: tuple[DeltaEntry, ...] = ()

    @property
    def deltas(self) -> tuple[RemoteDelta, ...]:
        """Delta files that lead to it."""
        return tuple(
            RemoteDelta(one.from_, one.blob, one.bytes, f"{self.base}/{blob_path(one.blob)}") for one in self.offered
        )

    def url_of(self, entry: FileEntry) -> str:
        """URL of the file's blob."""
        return f"{self.base}/{blob_path(entry.digest)}"


def open_catalog(url: str, client: HttpClient, trust: CatalogTrust, on_progress: Progress = silent) -> Catalog:
    """Update a catalog's metadata, and return the catalog. `url`: its folder, the one that has `metadata/`.

    `on_progress` receives a notice where another process updates the same metadata, and is waited for.

    Raises:
        FetchUnreachableError: the server does not answer, or fails on all tries; or another process holds the
            lock of the same metadata for longer than `LOCK_SECONDS`.
        FetchError: no root is trusted yet, or its file is damaged; or the catalog is older than what was seen before,
            expired, not signed by its keys, or was changed on the way.
    """
    from registry.catalog.tuf_fetcher import MetadataFetcher

    split_url(url)
    url = url.rstrip("/")
    state = state_folder(trust.state)
    folder = state / "catalogs" / hashlib.sha256(url.encode()).hexdigest()[:32]
    with disk_errors(folder, FetchError), _locked(state, folder, url, on_progress):
        _require_root(folder, trust.root, url)
        files = refreshed_targets(url, MetadataFetcher(client), folder / "metadata", trust.root, wait=client.wait)
        _remove_unlisted(private_folder(folder / "documents"), set(map(naming_hash, files.values())))
    return Catalog(files, url, client, folder)


def state_folder(given: Path | None = None) -> Path:
    """Return the folder for what must outlast a fetch. Raises `FetchError` where no variable says where that is."""
    if given is not None:
        return given
    if said := os.environ.get("PHIPACK_STATE"):
        return Path(said)
    if above := os.environ.get("XDG_STATE_HOME"):
        return Path(above) / "phipack"
    home = home_folder()
    if home is None:
        raise FetchError(
            f"no folder to keep what is trusted: HOME is not set, and the system has no entry for {unknown_user()}",
            fix="set PHIPACK_STATE to a folder that outlasts this fetch",
        )
    return home / ".local" / "state" / "phipack"


def install_id(state: Path | None = None) -> str:
    """Return this installation's name: random, made at the first call, and nothing that identifies a person."""
    path = state_folder(state) / "install-id"
    with disk_errors(path, FetchError):
        _make_state(path.parent)
        if not path.exists():
            write_atomically(path, f"{uuid.uuid4()}\n".encode(), mode=0o600, replace=False)
        with os.fdopen(open_found(path, os.O_RDONLY), "rb") as file:
            name = file.read(_INSTALL_ID_BYTES + 2).strip()  # a line feed ends it
    if not 0 < len(name) <= _INSTALL_ID_BYTES or not name.isascii() or not name.decode("ascii").isprintable():
        raise FetchError(
            f"{path} does not hold a name: it must be at most {_INSTALL_ID_BYTES} printable ASCII characters",
            fix=f"remove it: rm {path}; the next fetch makes a new name, which may come at another place in a rollout",
        )
    return name.decode("ascii")


def _require_root(folder: Path, root: Path | None, url: str) -> None:
    if root is None and not (folder / "metadata" / "root.json").is_file():
        raise FetchError(
            f"no root is trusted for {url} yet",
            fix="get its publisher's root from a source that you trust, and name it: --root 1.root.json",
        )


def refreshed_targets(
    url: str, fetcher: FetcherInterface, metadata: Path, root: Path | None, *, wait: Callable[[float], bool]
) -> Mapping[str, TargetFile]:
    """Update metadata from a trusted root on, and return the catalog's documents. `wait`: True where it was cancelled.

    Raises:
        FetchError: the catalog can't be trusted, or has expired; the fetcher's own errors pass.
    """
    from tuf.api.exceptions import DownloadError, RepositoryError, UnsignedMetadataError
    from tuf.api.metadata import Metadata, Targets

    metadata.mkdir(parents=True, exist_ok=True)
    for last in (False, True):
        updater = _updater(url, fetcher, metadata, root)
        try:
            updater.refresh()
            break
        except UnsignedMetadataError as error:
            if last or wait(1):  # a new root may be published a moment before what its keys sign
                raise _refused(url, error, metadata) from error
        except RepositoryError as error:
            raise _refused(url, error, metadata) from error
        except DownloadError as error:
            raise FetchError(
                f"{url} is not a catalog: {error}", fix="check the URL: it must be the folder that has metadata/"
            ) from error
    return Metadata[Targets].from_file(str(metadata / "targets.json")).signed.targets


def _updater(url: str, fetcher: FetcherInterface, metadata: Path, root: Path | None) -> Updater:
    """Open python-tuf's client on the trusted root: the named one, else the one that was trusted last."""
    from tuf.api.exceptions import RepositoryError
    from tuf.ngclient import Updater

    try:
        bootstrap = None if root is None else root.read_bytes()
    except OSError as error:
        raise FetchError(f"{root} can't be read: {error.strerror}", fix="name the catalog's root.json") from error
    try:
        return Updater(str(metadata), f"{url}/metadata/", fetcher=fetcher, bootstrap=bootstrap)
    except RepositoryError as error:  # it has read local files alone so far
        if root is not None:
            raise FetchError(
                f"the root file {root} is damaged, or is not a root: {error}",
                fix="get the root again from the catalog's publisher",
            ) from error
        raise FetchError(
            f"the root that was trusted last, {metadata / 'root.json'}, is damaged: {error}",
            fix="get the root again from the catalog's publisher, and name it: --root 1.root.json",
        ) from error


def _refused(url: str, error: RepositoryError, metadata: Path) -> FetchError:
    from tuf.api.exceptions import BadVersionNumberError, ExpiredMetadataError

    if isinstance(error, ExpiredMetadataError):
        renewal = "sign again: phipack publish --refresh"
        if _root_has_expired(metadata):
            renewal = "sign the root again, and publish: phipack keys show --renew, then phipack publish --refresh"
        return FetchError(
            f"the catalog at {url} has expired: {error}",
            fix=f"check this machine's clock; if it is right, its publisher must {renewal}",
        )
    if isinstance(error, BadVersionNumberError):
        return FetchError(
            f"the catalog at {url}: rollback or mix-and-match detected: {error}",
            fix="try again later; if the error stays, the server has an old catalog: report it to the publisher",
        )
    return FetchError(
        f"the catalog at {url} can't be trusted: {error}",
        fix="check the URL and the --root; if both are right, the catalog may have been tampered with: "
        "report it to the publisher",
    )


def _root_has_expired(metadata: Path) -> bool:
    """Whether the newest root that is trusted has expired: it is kept before its expiry is looked at."""
    from tuf.api.exceptions import RepositoryError
    from tuf.api.metadata import Metadata, Root

    try:
        return Metadata[Root].from_file(str(metadata / "root.json")).signed.expires <= datetime.now(UTC)
    except (OSError, RepositoryError):
        return False


def _mismatch(url: str) -> FetchError:
    return FetchError(
        f"{url}: digest mismatch: the file may have been tampered with",
        fix="try again; if the error stays, report it to the catalog's publisher",
    )


def _remove_unlisted(folder: Path, listed: Collection[str]) -> None:
    """Remove documents that the catalog does not list any more."""
    for path in folder.glob("*"):
        if path.name not in listed:
            path.unlink(missing_ok=True)


@contextmanager
def _locked(state: Path, folder: Path, url: str, on_progress: Progress) -> Iterator[None]:
    """Hold the lock of a catalog's folder, and make sure that all of it is this user's own."""
    _make_state(state)
    for own in (folder.parent, folder, folder / "metadata"):
        private_folder(own)
    waiting = LockWait(user_name(), LOCK_SECONDS, FetchUnreachableError, on_progress=on_progress)
    on_wait = waiting.reporter("another phipack", f"the metadata of {url}")
    with file_lock(folder / "lock", mode=0o600, on_wait=on_wait):
        yield


def _make_state(state: Path) -> None:
    """Create the folder of what is trusted, for its owner alone, or require that it is this user's.

    It may be a link, and shown to others: the user has named it.
    """
    state.parent.mkdir(parents=True, exist_ok=True)
    try:
        state.mkdir(0o700)
    except FileExistsError:
        require_not_planted(state)
        require_own_folder(state.resolve())
