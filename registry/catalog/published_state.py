"""The publisher's side of a catalog in a store: what is published, verified, and the next version of it.

    documents, N.targets.json, N.snapshot.json, N.root.json, timestamp.json: written in this order

Until the last one is written, clients see the previous catalog. The timestamp is replaced only if it is still the one
that was read: of two publishers at once, one succeeds, and the other reads again. Files that an interrupted publisher
has left have versions of their own that nothing refers to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from registry.catalog.documents import Documents, hashed_path, is_document, models_of, releases_of
from registry.catalog.signing import KeyFolder, Role
from registry.store.protocol import TIMESTAMP, Document, Store
from targets.errors import KeysError, PublicationError
from targets.progress import Notice, Progress, silent

if TYPE_CHECKING:
    from tuf.api.metadata import Metadata, Root, Snapshot, TargetFile, Targets, Timestamp

NO_CATALOG_FIX = "publish a channel (phipack publish MODEL), or name where the catalog is: publish --to, serve --store"
_CLOCK_SKEW = timedelta(days=1)
_UNUSED_VERSIONS_LIMIT = 100  # that interrupted publishers may have left one after the other


@dataclass
class Published(Documents):
    """What is published. `tag`: the timestamp's, None where nothing is published. Its errors are `PublicationError`.

    `expiries`: when the metadata of each role expires that was read; `published_root` reads the root's.
    """

    store: Store
    tag: str | None = None
    timestamp_version: int = 0
    snapshot_version: int = 0
    targets_version: int = 0
    expiries: Mapping[Role, datetime] = field(default_factory=dict)

    @property
    def expires(self) -> datetime | None:
        """When the first of its signatures does, None where nothing is published: from then on clients refuse all."""
        return min(self.expiries.values(), default=None)

    @property
    def is_expired(self) -> bool:
        """Whether clients refuse it by now."""
        return self.expires is not None and self.expires <= datetime.now(UTC)

    @property
    def renewal(self) -> str:
        """The commands that renew what has expired, or will first."""
        root, first = self.expiries.get("root"), self.expires
        of_root = root is not None and first is not None and root <= max(first, datetime.now(UTC))
        return ("phipack keys show --renew, then " if of_root else "") + "phipack publish --refresh"

    def blobs(self, model: str, release: str) -> set[str]:
        """Return the digests of all blobs of a release: manifests, files, deltas. Raises `PhipackError`."""
        document = self.release(model, release)
        digests: set[str] = set()
        for cell in document.cells.values() if document is not None else ():
            digests.add(cell.bundle)
            digests.update(delta.blob for delta in cell.deltas)
            digests.update(entry.digest for entry in self.store.manifest(cell.bundle).files)
        return digests

    def _read(self, path: str, file: TargetFile) -> bytes:
        name = "targets/" + hashed_path(path, file)
        found = _required(self.store, name)
        if not is_document(file, found.content):
            raise _tampered(self.store, name, "digest mismatch: the file may have been tampered with")
        return found.content

    def _malformed(self, path: str, why: str) -> PublicationError:
        return _tampered(self.store, "targets/" + hashed_path(path, self.files[path]), why)


def read_published(store: Store, keys: KeyFolder | None) -> Published:
    """Read a catalog's state, and verify every signature with the keys' roots; without `keys` nothing is verified.

    Older roots count, too: what was signed before a rotation is signed again with the next publication.

    Raises:
        PublicationError: a signature is not by these keys, or a file is missing or changed.
        KeysError: the catalog has a later root than the keys' folder.
        StoreError: the store can't be read.
    """
    if keys is not None:
        _require_newest_root(store, keys)
    there = store.read_document(TIMESTAMP)
    if there is None:
        return Published({}, store)
    timestamp: Metadata[Timestamp] = _verified(store, TIMESTAMP, there, keys, "timestamp")
    name = f"metadata/{timestamp.signed.snapshot_meta.version}.snapshot.json"
    snapshot: Metadata[Snapshot] = _verified(store, name, _required(store, name), keys, "snapshot")
    name = f"metadata/{snapshot.signed.meta['targets.json'].version}.targets.json"
    targets: Metadata[Targets] = _verified(store, name, _required(store, name), keys, "targets")
    versions = (timestamp.signed.version, snapshot.signed.version, targets.signed.version)
    roles: dict[Role, Metadata[Any]] = {"targets": targets, "snapshot": snapshot, "timestamp": timestamp}
    expiries = {role: metadata.signed.expires for role, metadata in roles.items()}
    return Published(targets.signed.targets, store, there.tag, *versions, expiries)


def published_root(store: Store) -> Metadata[Root]:
    """Return the newest root of the catalog in a store, its signatures unverified.

    Raises:
        PublicationError: it is missing or malformed.
        StoreError: the store can't be read.
    """
    found, version = _required(store, "metadata/1.root.json"), 1
    while (later := store.read_document(f"metadata/{version + 1}.root.json")) is not None:
        found, version = later, version + 1
    root: Metadata[Root] = _verified(store, f"metadata/{version}.root.json", found, None, "root")
    return root


def write_next(
    published: Published, keys: KeyFolder, documents: Mapping[str, bytes], *, on_progress: Progress = silent
) -> datetime | None:
    """Add documents to what is published, sign all again, and return when the catalog will expire.

    Return None where another publisher was faster: then nothing has changed; read the state again. `on_progress`
    receives a notice where the catalog expires earlier than before: this machine's clock may be behind. It is no
    error, as the clock that the catalog was signed by before may have been the wrong one.

    Raises:
        KeysError: a key is not available.
        StoreError: the store can't be written.
    """
    from tuf.api.metadata import Metadata, MetaFile, Snapshot, TargetFile, Targets, Timestamp

    store, now = published.store, datetime.now(UTC)
    files = dict(published.files)
    for path, content in documents.items():
        files[path] = TargetFile.from_data(path, content, ["sha256"])
        _write_hashed(store, "targets/" + hashed_path(path, files[path]), content)
    targets = Targets(published.targets_version + 1, expires=keys.expiry("targets", now), targets=files)
    targets_content = _write_version(store, keys, "targets", Metadata(targets))
    meta = {"targets.json": MetaFile.from_data(targets.version, targets_content, ["sha256"])}
    snapshot = Snapshot(published.snapshot_version + 1, expires=keys.expiry("snapshot", now), meta=meta)
    snapshot_content = _write_version(store, keys, "snapshot", Metadata(snapshot))
    timestamp = Timestamp(
        published.timestamp_version + 1,
        expires=keys.expiry("timestamp", now),
        snapshot_meta=MetaFile.from_data(snapshot.version, snapshot_content, ["sha256"]),
    )
    content = keys.sign("timestamp", Metadata(timestamp))
    _write_roots(store, keys)
    if not store.write_document(TIMESTAMP, content, replacing=published.tag):
        return None
    before = min(published.expires or keys.root.signed.expires, keys.root.signed.expires)
    expires = min(targets.expires, snapshot.expires, timestamp.expires, keys.root.signed.expires)
    if published.tag is not None and before - expires > _CLOCK_SKEW:
        on_progress(
            Notice(
                f"the catalog was valid until {before:%Y-%m-%d %H:%M} UTC, and is until {expires:%Y-%m-%d %H:%M} UTC"
                " now: is this machine's clock right? If not, set it, then: phipack publish --refresh"
            )
        )
    return expires


def published_digests(store: Store) -> set[str]:
    """Return the digests of all blobs of the catalog in a store: manifests, files and deltas. gc never removes them.

    Raises:
        PublicationError: a file of the catalog can't be read, so the digests are not known.
    """
    published = read_published(store, None)
    return {
        digest
        for model in models_of(published.paths)
        for release in releases_of(model, published.paths)
        for digest in published.blobs(model, release)
    }


def _verified(store: Store, name: str, there: Document, keys: KeyFolder | None, role: Role) -> Metadata[Any]:
    from tuf.api.exceptions import RepositoryError
    from tuf.api.metadata import Metadata

    try:
        metadata = Metadata[Any].from_bytes(there.content)
    except RepositoryError as error:
        raise _tampered(store, name, str(error)) from error
    if metadata.signed.type != role:
        raise _tampered(store, name, f"it is {metadata.signed.type} metadata")
    for root in reversed(keys.roots if keys is not None else ()):
        if _signs(root, role, metadata):
            return metadata
    if keys is not None:
        raise _tampered(store, name, f"signature mismatch: it is not signed by the {role} keys in {keys.path}")
    return metadata


def _signs(root: Metadata[Any], role: Role, metadata: Metadata[Any]) -> bool:
    return bool(root.signed.get_verification_result(role, metadata.signed_bytes, metadata.signatures))


def _required(store: Store, name: str) -> Document:
    there = store.read_document(name)
    if there is None:
        raise _tampered(store, name, "it is missing")
    return there


def _tampered(store: Store, name: str, what: str) -> PublicationError:
    return PublicationError(
        f"{store.uri}/{name}: {what}",
        fix="check --keys; if they are right, restore the catalog's files. Without a copy: remove metadata/, run"
        " phipack keys rotate timestamp and keys rotate snapshot, as phones refuse a catalog that begins again with the"
        " old keys, and publish all again",
    )


def _require_newest_root(store: Store, keys: KeyFolder) -> None:
    version = keys.root.signed.version
    if store.read_document(f"metadata/{version + 1}.root.json") is not None:
        raise KeysError(
            f"{store.uri} has root {version + 1}, and {keys.path} has {version}",
            fix="publish with the key folder that was rotated last",
        )


def _write_hashed(store: Store, name: str, content: bytes) -> None:
    """Write a document that has its hash in its name, also over a damaged one: no client accepts that."""
    if store.write_document(name, content, replacing=None):
        return
    there = store.read_document(name)
    if there is not None and there.content != content:
        store.write_document(name, content, replacing=there.tag)


def _write_roots(store: Store, keys: KeyFolder) -> None:
    """Write the versions of the root that the catalog does not have, oldest first: clients read them one by one."""
    for root in keys.roots:
        version = root.signed.version
        name = f"metadata/{version}.root.json"
        content = (keys.path / f"{version}.root.json").read_bytes()
        if store.write_document(name, content, replacing=None):
            continue
        if _required(store, name).content != content:
            raise KeysError(
                f"{store.uri}/{name} is not the root in {keys.path}",
                fix="publish with the keys of this catalog, or to another store",
            )


def _write_version(store: Store, keys: KeyFolder, role: Role, metadata: Metadata[Any]) -> bytes:
    """Sign and write the first later version that is not written yet."""
    for _ in range(_UNUSED_VERSIONS_LIMIT):
        content = keys.sign(role, metadata)
        if store.write_document(f"metadata/{metadata.signed.version}.{role}.json", content, replacing=None):
            return content
        metadata.signed.version += 1
    raise PublicationError(
        f"{store.uri}: unused versions of {role}.json, up to {metadata.signed.version}, are in the way",
        fix="remove the versions in metadata/ that are newer than the published one",
    )
