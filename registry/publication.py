"""Publication: a channel's bundles become a signed catalog that any web server or CDN can give out.

    registry: the channel's cells ──> blobs, deltas ──> release and channel documents ──> signed metadata, last

Phones see nothing of it until the last write. What was published stays: a release's bundle does not change, and older
releases can be asked for by version. The catalog lies in a store, so its blobs are the store's; the keys never do.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from registry.bundle.manifest import Manifest
from registry.catalog.documents import (
    CellEntry,
    ChannelDocument,
    DeltaEntry,
    DeviceEntry,
    ReleaseDocument,
    channel_path,
    release_path,
)
from registry.catalog.published_state import Published, read_published, write_next
from registry.catalog.rollout import ALL, Stage, stages_after
from registry.catalog.signing import KeyFolder
from registry.files.digests import digest_of_file
from registry.ledger.reader import Reader, resolve_in
from registry.ledger.versions import CellVersion
from registry.store.protocol import Blob, Store, blobs_of
from registry.store.uris import open_store
from targets.devices import Target
from targets.errors import PublicationError, did_you_mean
from targets.references import Reference

_TRIES = 5  # against other publishers
_DELTAS_LIMIT = 3  # older bundles of a cell that a delta is made from

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Order:
    """What is to be published: a model's channel, for how many installations, with `deltas` or without."""

    model: str
    channel: str
    basis_points: int = ALL
    deltas: bool = False


@dataclass(frozen=True)
class PublishedCell:
    """A cell as it stands now. `deltas`: how many lead to its bundle."""

    name: str
    target: str
    recipe: str
    bundle: str
    bytes: int
    stages: tuple[Stage, ...]
    deltas: int


@dataclass(frozen=True)
class Publication:
    """What was published. After `expires` clients refuse the catalog, unless it was signed anew."""

    model: str
    channel: str
    cells: tuple[PublishedCell, ...]
    expires: datetime


def publish(
    registry: Reader,
    order: Order,
    into: Store,
    keys: KeyFolder,
    *,
    targets: Mapping[str, Target],
    told: Callable[[str], None] = lambda _: None,
) -> Publication:
    """Publish what a channel points at now.

    Args:
        registry: knows the channel.
        order: what is to be published.
        into: the catalog's place; what it lacks of the bundles is copied there.
        keys: sign it.
        targets: what is known of the cells' targets, by name.
        told: is told what is being done.

    Raises:
        PublicationError: the channel is empty, a bundle changed within a release, or the catalog there is damaged.
        KeysError: too few keys are at hand. RegistryError, StoreError: MLflow or a store fails.
    """
    into.check_writable()
    made: dict[tuple[str, str], DeltaEntry | None] = {}

    def attempt() -> Publication | None:
        rows = resolve_in(registry, Reference(order.model, channel=order.channel))
        manifests = {row.digest: _bring(row, into, told) for row in rows}
        published = read_published(into, keys)
        channel = _channel(published, order, rows)
        releases = _releases(published, rows, manifests, targets)
        releases = _with_deltas(published, order, releases, rows, made, told)
        documents = {release_path(order.model, name): one.to_bytes() for name, one in releases.items()}
        documents[channel_path(order.model, order.channel)] = channel.to_bytes()
        expires = write_next(published, keys, documents)
        if expires is None:
            return None
        return Publication(order.model, order.channel, _summary(rows, channel, releases), expires)

    return _against_others(into, attempt)


def refresh(into: Store, keys: KeyFolder) -> datetime:
    """Sign a catalog anew, as it is, and give when it will expire. Raises as `publish`."""

    def attempt() -> datetime | None:
        published = read_published(into, keys)
        if published.tag is None:
            raise PublicationError(f"{into.uri} holds no catalog", fix="publish a channel: phipack publish MODEL")
        return write_next(published, keys, {})

    return _against_others(into, attempt)


def _against_others(into: Store, attempt: Callable[[], _Result | None]) -> _Result:
    """Read and write again while other publishers are quicker."""
    for _ in range(_TRIES):
        if (result := attempt()) is not None:
            return result
    raise PublicationError(f"{into.uri}: others published {_TRIES} times meanwhile", fix="run the same command again")


def _bring(row: CellVersion, into: Store, told: Callable[[str], None]) -> Manifest:
    """Copy what the catalog's store lacks of a bundle, the manifest last; give the manifest."""
    source = open_store(row.store)
    manifest = source.manifest(row.digest)
    for _, blob in blobs_of(manifest):
        if into.has_kept(blob):
            continue
        if blob.digest != row.digest:
            told(f"{row.cell}: {blob.bytes / 1e6:.1f} MB to {into.uri}")
        with source.open_blob(blob.digest) as stream:
            into.put(stream, blob, what=f"{row.reference}, {source.place_of(blob.digest)}")
    return manifest


def _channel(published: Published, order: Order, rows: Sequence[CellVersion]) -> ChannelDocument:
    """Give the channel as it will be. Cells that it no longer holds are gone from it."""
    before = published.channel(order.model, order.channel)
    stages = {} if before is None else before.cells
    return ChannelDocument(
        schema="phipack.channel/1",
        model=order.model,
        channel=order.channel,
        cells={
            row.cell: tuple(stages_after(stages.get(row.cell, ()), str(row.release), order.basis_points))
            for row in rows
        },
    )


def _releases(
    published: Published,
    rows: Sequence[CellVersion],
    manifests: Mapping[str, Manifest],
    targets: Mapping[str, Target],
) -> dict[str, ReleaseDocument]:
    """Give the releases' documents with these cells added."""
    documents: dict[str, ReleaseDocument] = {}
    for row in rows:
        name = str(row.release)
        before = documents.get(name) or published.release(row.model, name)
        target = targets.get(row.target)
        if target is None:
            raise PublicationError(
                f"{row.reference}: target {row.target!r} is not known here: phones can't be told whom it is for",
                fix=f"{did_you_mean(row.target, targets)}; of your own: --project FILE, whose cells name its file",
            )
        cell = _cell(row, manifests[row.digest])
        if before is not None and row.cell in before.cells:
            published_cell = before.cells[row.cell]
            if published_cell.bundle != cell.bundle:
                raise PublicationError(
                    f"{row.reference} is published already, as bundle {published_cell.bundle}, not {cell.bundle}",
                    fix="a release does not change: release the new bundle under another version",
                )
            cell = cell.model_copy(update={"deltas": published_cell.deltas})
        documents[name] = ReleaseDocument(
            schema="phipack.release/1",
            model=row.model,
            release=name,
            devices={**(before.devices if before else {}), row.target: DeviceEntry.of(target)},
            cells={**(before.cells if before else {}), row.cell: cell},
        )
    return documents


def _cell(row: CellVersion, manifest: Manifest) -> CellEntry:
    return CellEntry(
        target=row.target,
        recipe=row.recipe,
        format=manifest.recipe.format,
        bundle=row.digest,
        manifest_bytes=len(manifest.to_bytes()),
        bytes=manifest.total_bytes,
    )


def _with_deltas(
    published: Published,
    order: Order,
    releases: Mapping[str, ReleaseDocument],
    rows: Sequence[CellVersion],
    made: dict[tuple[str, str], DeltaEntry | None],
    told: Callable[[str], None],
) -> dict[str, ReleaseDocument]:
    """Add deltas from the bundles that phones have of this channel. `made`: what was tried already."""
    documents = dict(releases)
    before = published.channel(order.model, order.channel)
    if not order.deltas or before is None:
        return documents
    for row in rows:
        document = documents[str(row.release)]
        cell = document.cells[row.cell]
        deltas = list(cell.deltas)
        for old in _bundles_before(published, before, row):
            if any(one.from_ == old for one in deltas):
                continue
            if (old, row.digest) not in made:
                told(f"{row.cell}: a delta from {old[7:19]} to {row.digest[7:19]}")
                made[old, row.digest] = _delta(published.store, old, row.digest)
            if (entry := made[old, row.digest]) is not None:
                deltas.append(entry)
        changed = cell.model_copy(update={"deltas": tuple(deltas)})
        documents[str(row.release)] = document.model_copy(update={"cells": {**document.cells, row.cell: changed}})
    return documents


def _bundles_before(published: Published, channel: ChannelDocument, row: CellVersion) -> list[str]:
    found: list[str] = []
    for stage in channel.cells.get(row.cell, ())[:_DELTAS_LIMIT]:
        document = published.release(channel.model, stage.release)
        old = None if document is None else document.cells.get(row.cell)
        if old is not None and old.bundle != row.digest:
            found.append(old.bundle)
    return found


def _delta(store: Store, old: str, new: str) -> DeltaEntry | None:
    """Make a delta from two bundles of the store, and add it there."""
    from registry.transfer.delta_writer import make_delta

    with tempfile.TemporaryDirectory(prefix="phipack-delta-") as folder:
        place = Path(folder)
        out = place / "delta"
        if make_delta(store.materialise(old, place / "old"), store.materialise(new, place / "new"), out) is None:
            return None
        blob = Blob(digest_of_file(out), out.stat().st_size)
        with out.open("rb") as stream:
            store.put(stream, blob, what=str(out))
    return DeltaEntry.model_validate({"from": old, "blob": blob.digest, "bytes": blob.bytes})


def _summary(
    rows: Sequence[CellVersion], channel: ChannelDocument, releases: Mapping[str, ReleaseDocument]
) -> tuple[PublishedCell, ...]:
    cells = []
    for row in rows:
        entry = releases[str(row.release)].cells[row.cell]
        cells.append(
            PublishedCell(
                row.cell,
                entry.target,
                entry.recipe,
                entry.bundle,
                entry.bytes,
                channel.cells[row.cell],
                len(entry.deltas),
            )
        )
    return tuple(cells)
