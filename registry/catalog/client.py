"""A catalog on the web, as a phone's installer sees it: trusted from a pinned root on, whoever serves it.

python-tuf's client (`tuf.ngclient`) does what TUF 1.0, chapter 5, says: roots one after the other, then timestamp,
snapshot, targets; rollback, freeze, mix-and-match and tampering end there. Bytes come through `http_requests`. What
it trusted last is kept, and is what a rollback is held against:

    STATE/catalogs/HASH-OF-URL/
      metadata/…               python-tuf's
      documents/HASH           channels and releases that were read before
      lock                     held while metadata is brought up to date
    STATE/install-id           a random name of this installation, for staged rollout
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from registry.bundle.manifest import FileEntry, Manifest
from registry.catalog.choice import Resolved
from registry.catalog.documents import DOCUMENT_BYTES_LIMIT, DeltaEntry, Documents, hashed_path
from registry.files.digests import digest_of_bytes
from registry.files.staging import disk_errors
from registry.store.protocol import blob_path
from registry.transfer.http import Web, read_small
from registry.transfer.remote import RemoteDelta
from targets.errors import BundleError, FetchError

if TYPE_CHECKING:
    from tuf.api.exceptions import RepositoryError
    from tuf.api.metadata import TargetFile


@dataclass
class Catalog(Documents):
    """A catalog whose metadata is verified and up to date. `open_catalog` makes it. Its errors are `FetchError`."""

    url: str
    web: Web
    folder: Path

    def bundle(self, resolved: Resolved) -> CatalogBundle:
        """Read the manifest of what a query came to. Raises `FetchError` where it is not the one that was signed."""
        place = f"{self.url}/{blob_path(resolved.entry.bundle)}"
        raw = read_small(self.web, place, resolved.entry.manifest_bytes)
        if digest_of_bytes(raw) != resolved.entry.bundle:
            raise _changed(place)
        try:
            manifest = Manifest.parse(raw, source=place)
        except BundleError as error:
            raise FetchError(error.problem, fix="tell the catalog's publisher") from error
        return CatalogBundle(self.url, place, manifest, resolved.entry.deltas)

    def _read(self, path: str, sha256: str, size: int) -> bytes:
        """Give a document from an earlier time, or from the catalog; never one that has another digest."""
        kept = self.folder / "documents" / sha256
        if kept.is_file() and hashlib.sha256(raw := kept.read_bytes()).hexdigest() == sha256:
            return raw
        place = f"{self.url}/targets/{hashed_path(path, sha256)}"
        raw = read_small(self.web, place, min(size, DOCUMENT_BYTES_LIMIT))
        if hashlib.sha256(raw).hexdigest() != sha256:
            raise _changed(place)
        with disk_errors(self.folder, FetchError):
            kept.parent.mkdir(parents=True, exist_ok=True)
            _put(kept, raw)
        return raw

    def _malformed(self, path: str, why: str) -> FetchError:
        return FetchError(
            f"{self.url}: document {path} is of a form that this phipack does not know: {why}",
            fix="install a later phipack",
        )


@dataclass(frozen=True)
class CatalogBundle:
    """A bundle of a catalog: a `Remote`."""

    base: str
    place: str
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


def open_catalog(url: str, web: Web, *, root: Path | None = None, state: Path | None = None) -> Catalog:
    """Bring a catalog's metadata up to date, and give the catalog.

    Args:
        url: of its folder, the one that has `metadata/`.
        web: connections.
        root: the root that is trusted, as the publisher gave it out (`1.root.json` or a later one). Needed the first
            time; afterwards what was trusted last is kept.
        state: folder to keep it in; else `PHIPACK_STATE`, `XDG_STATE_HOME/phipack`, `~/.local/state/phipack`.

    Raises:
        FetchError: no root is trusted yet; or the catalog is older than what was seen before, expired, not signed by
            its keys, or changed on the way; or it can't be reached.
    """
    url = url.rstrip("/")
    folder = state_folder(state) / "catalogs" / hashlib.sha256(url.encode()).hexdigest()[:32]
    with disk_errors(folder, FetchError), _locked(folder):
        files = _refreshed(url, web, folder / "metadata", _trusted(folder, root, url))
        _forget(folder / "documents", {file.hashes["sha256"] for file in files.values()})
    return Catalog(files, url, web, folder)


def state_folder(given: Path | None = None) -> Path:
    """Where what must outlast a fetch is kept."""
    if given is not None:
        return given
    if said := os.environ.get("PHIPACK_STATE"):
        return Path(said)
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "phipack"


def install_id(state: Path | None = None) -> str:
    """Give this installation's name, made when first asked for: random, of nothing that identifies a person."""
    path = state_folder(state) / "install-id"
    with disk_errors(path, FetchError):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _put(path, f"{uuid.uuid4()}\n".encode(), replace=False)
        return path.read_text().strip()


def _trusted(folder: Path, root: Path | None, url: str) -> bytes | None:
    """Give the pinned root; None where the one that was trusted before is to be."""
    if root is not None:
        try:
            return root.read_bytes()
        except OSError as error:
            raise FetchError(f"{root} can't be read: {error.strerror}", fix="name the catalog's root.json") from error
    if not (folder / "metadata" / "root.json").is_file():
        raise FetchError(
            f"no root is trusted for {url} yet",
            fix="give its publisher's root, from a place that you trust: --root 1.root.json",
        )
    return None


def _refreshed(url: str, web: Web, metadata: Path, bootstrap: bytes | None) -> Mapping[str, TargetFile]:
    from tuf.api.exceptions import DownloadError, RepositoryError, UnsignedMetadataError
    from tuf.api.metadata import Metadata, Targets
    from tuf.ngclient import Updater

    from registry.catalog.tuf_fetcher import WebFetcher

    metadata.mkdir(parents=True, exist_ok=True)
    for last in (False, True):
        try:
            updater = Updater(str(metadata), f"{url}/metadata/", fetcher=WebFetcher(web), bootstrap=bootstrap)
            updater.refresh()
            break
        except UnsignedMetadataError as error:
            if last or web.stopped.wait(1):  # a new root may be published a moment before what its keys sign
                raise _refused(url, error) from error
        except RepositoryError as error:
            raise _refused(url, error) from error
        except DownloadError as error:
            raise FetchError(f"{url} is no catalog: {error}", fix="check the URL: it has metadata/ below it") from error
    return Metadata[Targets].from_file(str(metadata / "targets.json")).signed.targets


def _refused(url: str, error: RepositoryError) -> FetchError:
    from tuf.api.exceptions import BadVersionNumberError, ExpiredMetadataError

    if isinstance(error, ExpiredMetadataError):
        return FetchError(
            f"the catalog at {url} has expired: {error}",
            fix="check this machine's clock; if it is right, the publisher is to sign anew: phipack publish --refresh",
        )
    if isinstance(error, BadVersionNumberError):
        return FetchError(
            f"the catalog at {url} is not the newest that was seen, or is put together of several: {error}",
            fix="try again later; if it stays so, somebody serves an old catalog: tell its publisher",
        )
    return FetchError(
        f"the catalog at {url} is not to be trusted: {error}",
        fix="check the URL and the --root; if both are right, somebody has changed it: tell its publisher",
    )


def _changed(place: str) -> FetchError:
    return FetchError(
        f"{place} is not what the catalog's keys signed",
        fix="try again; if it stays so, somebody has changed it: tell the catalog's publisher",
    )


def _forget(folder: Path, known: Collection[str]) -> None:
    """Remove documents that the catalog does not have any more."""
    for path in folder.glob("*"):
        if path.name not in known:
            path.unlink(missing_ok=True)


def _put(path: Path, content: bytes, *, replace: bool = True) -> None:
    """Write beside, then one rename; where another process has it already, that one stays unless `replace`."""
    staging = path.with_name(f"{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}")
    staging.write_bytes(content)
    try:
        if replace:
            staging.replace(path)
        elif not path.exists():
            os.link(staging, path)
    except FileExistsError:
        return
    finally:
        staging.unlink(missing_ok=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    import fcntl  # POSIX, as the package is

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
