"""Garbage collection: blobs that no version, no channel and no published catalog refers to.

Safe while a release runs: it keeps each blob that it finds in the store (`Store.keep`), or adds it; both restart the
blob's age, and only what nothing referred to for longer than the grace is removed, after its age is checked again. A
release that takes longer than the grace between adding a bundle and registering it is refused when it registers.

What a job has built or measured within the grace (`store/actions.py`) is kept, too: a matrix is finished later. A
record is removed once it is older than the grace and its bundle, or a file of its calibration, is gone, or no other
record is of its checkpoint: then it counts as none. Records of bundles that are registered stay, and the next release
builds nothing again.

A store belongs to one registry: what another one refers to is not known here.
"""

from __future__ import annotations

from dataclasses import dataclass

from registry.bundle.manifest import MANIFEST_BYTES_LIMIT
from registry.catalog.published_state import published_digests
from registry.ledger.reader import Reader
from registry.store.actions import ActionRecord, read_record, record_names
from registry.store.protocol import Blob, Store, blobs_of
from registry.store.uris import open_store
from targets.errors import BundleError, PhipackError, RegistryError, StoreError, StoreUnreachableError
from targets.progress import Notice, Progress, silent

LEAST_GRACE_HOURS = 1.0  # a shorter one could remove what a release that is running has just added


@dataclass(frozen=True)
class Collected:
    """What was removed, or would be: blobs, leftovers of broken writes, and records. `kept`: how many blobs stay."""

    removed: tuple[Blob, ...]
    leftovers: int
    kept: int
    records: int = 0

    @property
    def bytes(self) -> int:
        """Bytes of the removed blobs."""
        return sum(blob.bytes for blob in self.removed)


def collect(
    store: Store,
    registry: Reader,
    *,
    grace_seconds: float,
    dry_run: bool = False,
    on_progress: Progress = silent,
) -> Collected:
    """Remove what nothing refers to. Killed at any point, it has removed nothing else; the next run goes on.

    Args:
        store: whose blobs are looked at.
        registry: knows all versions that refer to it.
        grace_seconds: how long nothing must have added or kept a blob.
        dry_run: remove nothing.
        on_progress: receives a notice of each blob that is removed.

    Raises:
        RegistryError: nothing refers to the store though it holds blobs: it is another registry's.
        StoreError: there is no store, or a manifest that is referred to is missing or damaged, so what it names is
            unknown.
    """
    if not store.exists():
        raise StoreError(f"{store.uri}: there is no store; nothing was removed", fix="name the store with --store")
    aged = list(store.aged(grace_seconds))  # before the references: who registers now has kept its blobs already
    referred = _referred(store, registry)
    if not referred and any(True for _ in store.blobs()):
        raise RegistryError(
            f"no version and no catalog refers to {store.uri}, and it holds blobs",
            fix="name its registry with --tracking-uri; if that no longer exists, remove the store itself",
        )
    referred |= _recorded(store, grace_seconds)
    unused = [blob for blob in aged if blob.digest not in referred]
    removed = []
    # Manifests first: a bundle of which a part is gone is none.
    for blob in sorted(unused, key=lambda one: not _is_manifest(store, one)):
        if dry_run or store.remove(blob.digest, seconds=grace_seconds):
            removed.append(blob)
            on_progress(Notice(f"{blob.digest}, {blob.bytes:,} B"))
    leftovers = store.sweep(grace_seconds, dry_run=dry_run)
    kept = {blob.digest for blob in store.blobs()} - {blob.digest for blob in removed}
    records = _remove_records(store, kept, grace_seconds, dry_run=dry_run)
    return Collected(tuple(removed), leftovers, len(kept), records)


def _recorded(store: Store, seconds: float) -> set[str]:
    """Return the digests of all blobs, of bundles and of calibrations, that records younger than `seconds` name."""
    young = set(record_names(store)) - set(record_names(store, seconds=seconds))
    found = [read_record(store, name) for name in sorted(young)]
    records = [record for record in found if record is not None]
    digests = {blob.digest for record in records for blob in (record.files or {}).values()}
    for bundle in {record.bundle for record in records if record.bundle is not None}:
        try:
            digests.update(blob.digest for _, blob in blobs_of(store.manifest(bundle)))
        except StoreUnreachableError:
            raise
        except (StoreError, BundleError):
            continue  # it counts as none
    return digests


def _remove_records(store: Store, blobs: set[str], seconds: float, *, dry_run: bool) -> int:
    """Remove old records that count as none, given the digests of the store's blobs. Return how many."""
    records = {name: read_record(store, name) for name in record_names(store)}
    whole = {name: record for name, record in records.items() if record is not None and _is_whole(record, blobs)}
    checkpoints = {record.checkpoint for record in whole.values()}
    gone = []
    for name in record_names(store, seconds=seconds):
        record = records.get(name)
        of_checkpoint = record is not None and record.action == "checkpoint" and record.checkpoint in checkpoints
        if name not in whole and not of_checkpoint and (dry_run or store.remove_document(name, seconds=seconds)):
            gone.append(name)
    return len(gone)


def _is_whole(record: ActionRecord, blobs: set[str]) -> bool:
    """Return whether the bundle or the files that a record names are there; False for one that names none."""
    if record.action == "calibrate":
        return bool(record.files) and all(blob.digest in blobs for blob in (record.files or {}).values())
    return record.bundle in blobs


def _referred(store: Store, registry: Reader) -> set[str]:
    """Return the digests of all blobs that something refers to."""
    digests = published_digests(store)
    for digest, reference, home in {(row.digest, row.reference, row.store) for row in registry.versions(copies=True)}:
        if digest in digests:
            continue
        at_home = _is_same(home, store)
        if not at_home and store.blob_bytes(digest) is None:
            continue  # it lies in another store alone
        try:
            files = store.manifest(digest).files
        except StoreUnreachableError:
            raise
        except (StoreError, BundleError) as error:
            raise StoreError(
                f"{reference}: {error.problem}; nothing is removed, as what it names is unknown",
                fix="add the bundle again (phipack release), or delete that version in MLflow",
            ) from error
        digests.add(digest)
        digests.update(entry.digest for entry in files)
    return digests


def _is_same(uri: str, store: Store) -> bool:
    try:
        return open_store(uri).uri == store.uri
    except PhipackError:
        return False


def _is_manifest(store: Store, blob: Blob) -> bool:
    if blob.bytes > MANIFEST_BYTES_LIMIT:
        return False
    try:
        store.manifest(blob.digest)
    except PhipackError:
        return False
    return True
