"""Publication: a channel's bundles become a signed catalog that any web server or CDN can serve.

    registry: the channel's cells ──> blobs, deltas ──> release and channel documents ──> signed metadata, last

Phones see the previous catalog until the last write. What was published stays: a release's bundle does not change, and
older releases can be fetched by version. A published cell leaves a channel only where a move has taken it out, or where
the order says so: a version that was deleted in MLflow is missed. The catalog is in a store, so its blobs are the
store's; the keys never are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from registry.bundle.manifest import Manifest
from registry.catalog.documents import (
    CellEntry,
    ChannelDocument,
    DeltaEntry,
    DeviceEntry,
    ReleaseDocument,
    RequiredRuntime,
    channel_path,
    release_path,
)
from registry.catalog.earlier import with_earlier
from registry.catalog.published_check import check_published
from registry.catalog.published_deltas import DeltaMaker
from registry.catalog.published_state import NO_CATALOG_FIX, Published, read_published, write_next
from registry.catalog.rollout import ALL, Stage, share_of, stages_after
from registry.catalog.signing import KeyFolder
from registry.ledger.channel_moves import Move, cells_taken_out, unended
from registry.ledger.reader import Reader, resolve_in
from registry.ledger.versions import CellVersion, require_one_home
from registry.store.folder import FolderStore
from registry.store.protocol import Store, blobs_of
from registry.store.uris import open_store
from targets.devices import Target
from targets.errors import BundleError, PublicationError, StoreError, did_you_mean
from targets.progress import Notice, Progress, Step, silent
from targets.references import Reference, check_channel
from targets.runtimes.table import strictest
from targets.stated_path import neighbour

_TRIES = 5  # against other publishers

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Order:
    """What to publish: a model's channel, to how many installations, with `deltas` or without.

    `drop`: published cells that leave the channel although no move has taken them out. `newest_only`: apps with older
    runtimes are offered no earlier release from now on. `new_catalog`: it may be the first publication at a place that
    has none of the bundles either.
    """

    model: str
    channel: str
    basis_points: int = ALL
    deltas: bool = False
    drop: frozenset[str] = frozenset()
    newest_only: bool = False
    new_catalog: bool = False


@dataclass(frozen=True)
class PublishedCell:
    """A cell as it is published now. `deltas`: how many lead to its bundle; `changed`: False where it was so before.

    `earlier`: releases that apps get whose runtimes can run none of the stages.
    """

    name: str
    target: str
    recipe: str
    bundle: str
    bytes: int
    stages: tuple[Stage, ...]
    deltas: int
    changed: bool = True
    earlier: tuple[str, ...] = ()


@dataclass(frozen=True)
class Publication:
    """What was published. After `expires` clients refuse the catalog, unless it was signed again.

    `dropped`: cells that the channel had before, and has no more. `new_catalog`: nothing was published there before.
    """

    model: str
    channel: str
    cells: tuple[PublishedCell, ...]
    expires: datetime
    dropped: tuple[str, ...] = ()
    new_catalog: bool = False


def publish(  # noqa: PLR0913 - as `promotion.promote`
    registry: Reader,
    order: Order,
    into: Store,
    keys: KeyFolder,
    *,
    targets: Mapping[str, Target],
    moves: Callable[[], Sequence[Move]] = tuple,
    on_progress: Progress = silent,
) -> Publication:
    """Publish what a channel points at now.

    Args:
        registry: where the channel is read.
        order: what to publish.
        into: the catalog's store; blobs that are missing there are copied.
        keys: sign the catalog.
        targets: descriptions of the cells' targets, by name.
        moves: returns the model's moves, newest first.
        on_progress: step `upload` for each cell, in bytes; step `delta` for each delta that is made.

    Raises:
        PublicationError: a bundle changed within a release; a published cell is missing in the channel, and nobody has
            taken it out; the channel is in the middle of a move, or was moved meanwhile; the rollout is narrower than
            it was; there is no catalog, and the place is not the bundles' store; the published catalog is damaged; or
            what was written is refused by the client's own code.
        KeysError: too few keys are available, or the root has expired.
        MalformedReferenceError: the channel's name is none.
        RegistryError, StoreError: the channel is empty, or MLflow or a store fails.
    """
    check_channel(order.channel)
    _check_root(keys, on_progress)
    made: dict[tuple[str, str], DeltaEntry | None] = {}

    def attempt() -> Publication | None:
        published = read_published(into, keys)
        before = published.channel(order.model, order.channel)
        rows = _rows(registry, order, before)
        known = moves()
        _require_standing(registry, order, rows, known)
        dropped = _dropped(order, rows, before, known)
        channel = _channel(order, rows, before)
        _require_meant(order, published, rows)
        into.check_writable()
        manifests = {row.digest: _copy_bundle(row, into, on_progress) for row in rows}
        releases = _releases(published, rows, manifests, targets)
        if order.deltas and before is not None:
            releases = DeltaMaker(published, made, on_progress).add(before, releases, rows)
        if not order.newest_only:
            channel = with_earlier(
                channel, before, lambda name: releases.get(name) or published.release(order.model, name)
            )
        documents = {release_path(order.model, name): one.to_bytes() for name, one in releases.items()}
        documents[channel_path(order.model, order.channel)] = channel.to_bytes()
        _require_standing(registry, order, rows, moves())
        expires = write_next(published, keys, documents, on_progress=on_progress)
        if expires is None:
            return None
        check_published(into, keys, documents)
        cells, is_new = _summary(rows, channel, releases, before), published.tag is None
        return Publication(order.model, order.channel, cells, expires, dropped, is_new)

    return _until_first(into, attempt)


def refresh(into: Store, keys: KeyFolder, *, on_progress: Progress = silent) -> datetime:
    """Sign a catalog again, as it is, and return when it will expire. Raises the errors of `publish`."""
    _check_root(keys, on_progress)

    def attempt() -> datetime | None:
        published = read_published(into, keys)
        if published.tag is None:
            raise PublicationError(f"{into.uri} has no catalog", fix=NO_CATALOG_FIX)
        expires = write_next(published, keys, {}, on_progress=on_progress)
        if expires is not None:
            check_published(into, keys, published.paths)
        return expires

    return _until_first(into, attempt)


def _check_root(keys: KeyFolder, on_progress: Progress) -> None:
    """Refuse an expired root before anything is written; warn of one that will expire soon."""
    now = datetime.now(UTC)
    keys.require_valid_root(now)
    for warning in keys.warnings(now):
        on_progress(Notice(warning))


def _require_meant(order: Order, published: Published, rows: Sequence[CellVersion]) -> None:
    """Refuse a place without a catalog, which may be a misspelt one, unless it is asked for or has a bundle already."""
    place = published.store
    if published.tag is None and not order.new_catalog and all(place.blob_bytes(row.digest) is None for row in rows):
        near = neighbour(place.root) if isinstance(place, FolderStore) else None
        meant = f"did you mean {near!r}? C" if near else "c"
        raise PublicationError(
            f"{place.uri} has no catalog; nothing was published",
            fix=f"{meant}orrect --to or --store; if a catalog is to begin there: --new-catalog",
        )


def _until_first(into: Store, attempt: Callable[[], _Result | None]) -> _Result:
    """Read and write again while other publishers are faster."""
    for _ in range(_TRIES):
        if (result := attempt()) is not None:
            return result
    raise PublicationError(f"{into.uri}: other publishers were faster {_TRIES} times", fix="run the same command again")


def _copy_bundle(row: CellVersion, into: Store, on_progress: Progress) -> Manifest:
    """Copy the blobs of a bundle that are missing in the catalog's store, the manifest last. Return the manifest."""
    source = open_store(row.store)
    manifest = source.manifest(row.digest)
    missing = [blob for _, blob in blobs_of(manifest) if not into.has_kept(blob)]
    done, total = 0, sum(blob.bytes for blob in missing)
    for blob in missing:
        on_progress(Step("upload", done, total, "bytes", row.cell))
        with source.open_blob(blob.digest) as stream:
            try:
                into.put(stream, blob, what=f"{row.reference}, {source.location_of(blob.digest)}")
            except BundleError as error:
                raise StoreError(error.problem, fix=source.renewal(blob.digest)) from error
        done += blob.bytes
        on_progress(Step("upload", done, total, "bytes", row.cell))
    return manifest


def _rows(registry: Reader, order: Order, before: ChannelDocument | None) -> list[CellVersion]:
    """Return what the channel points at; nothing only where it is published and was emptied."""
    versions = registry.versions(order.model)
    rows = [row for row in versions if order.channel in row.channels]
    require_one_home(rows)
    if not rows and (before is None or not before.cells):
        return resolve_in(registry, Reference(order.model, channel=order.channel), versions)
    return rows


def _require_standing(registry: Reader, order: Order, rows: Sequence[CellVersion], moves: Sequence[Move]) -> None:
    """Refuse a channel that is in the middle of a move, which may be taken back, or does not have these rows any more.

    `moves` were read after `rows`: cells that were read while a move went on differ now.
    """
    channel = f"{order.model}:{order.channel}"
    for move in unended(moves):
        if move.channel == order.channel:
            raise PublicationError(
                f"{channel}: the {move.title} by {move.who} is unfinished; nothing was published",
                fix="wait until it has ended; if its process died, promote what the channel is for, which takes it back"
                f" first: phipack promote {order.model}:VERSION --to {order.channel}",
            )
    if [row for row in registry.versions(order.model) if order.channel in row.channels] != list(rows):
        raise PublicationError(
            f"{channel} was moved meanwhile; nothing was published", fix="run the same command again"
        )


def _dropped(
    order: Order,
    rows: Sequence[CellVersion],
    before: ChannelDocument | None,
    moves: Sequence[Move],
) -> tuple[str, ...]:
    """Return the published cells that leave the channel. Raises `PublicationError` where one has just vanished."""
    stages = {} if before is None else before.cells
    missing = stages.keys() - {row.cell for row in rows}
    channel = f"{order.model}:{order.channel}"
    if unknown := sorted(order.drop - missing):
        raise PublicationError(
            f"{channel}: {', '.join(unknown)} can't be dropped: it is not published, or the channel still points at it",
            fix=f"take it out of the channel first: phipack retire {order.model}@{unknown[0]} --from {order.channel}",
        )
    vanished = sorted(missing - order.drop)
    if vanished and (vanished := sorted(set(vanished) - cells_taken_out(moves, order.channel))):
        named = ", ".join(f"{cell} ({stages[cell][0].release})" for cell in vanished)
        drop = " ".join(f"--drop {cell}" for cell in vanished)
        raise PublicationError(
            f"{channel} is published with cells that it does not point at any more: {named}; no move has taken them"
            " out: their versions were deleted in MLflow, or their aliases removed there; nothing was published",
            fix=f"promote a version of each; or, if phones are not to get them any more, add {drop}",
        )
    return tuple(sorted(missing))


def _channel(order: Order, rows: Sequence[CellVersion], before: ChannelDocument | None) -> ChannelDocument:
    """Return the channel as it will be: with its present cells only.

    A cell whose release is out for more installations already, such as one that a new release does not have, stays as
    it is; unless all of them are: then there is nothing to roll out.
    """
    stages = {} if before is None else before.cells
    cells, wider = {}, []
    for row in rows:
        was, release = stages.get(row.cell, ()), str(row.release)
        if (share := share_of(was, release)) > order.basis_points:
            wider.append((share, release))
        cells[row.cell] = tuple(stages_after(was, release, max(share, order.basis_points)))
    if wider and all(cells[row.cell] == stages.get(row.cell) for row in rows):
        share, release = min(wider)
        asked = f"publish it with --rollout {share / 100:g} or more, or " if share < ALL else ""
        raise PublicationError(
            f"{release} is out for {share / 100:g} % already; {order.basis_points / 100:g} % would take it back from"
            " phones",
            fix=f"{asked}promote another release and publish that",
        )
    return ChannelDocument(schema="phipack.channel/1", model=order.model, channel=order.channel, cells=cells)


def _releases(
    published: Published,
    rows: Sequence[CellVersion],
    manifests: Mapping[str, Manifest],
    targets: Mapping[str, Target],
) -> dict[str, ReleaseDocument]:
    """Return the releases' documents with these cells added."""
    documents: dict[str, ReleaseDocument] = {}
    for row in rows:
        name = str(row.release)
        before = documents.get(name) or published.release(row.model, name)
        target = targets.get(row.target)
        if target is None:
            raise PublicationError(
                f"{row.reference}: target {row.target!r} is unknown, so the catalog can't say which phones it is for",
                fix=f"{did_you_mean(row.target, targets)}; for a target of your own: --project FILE, if a cell has it",
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
        requires=None
        if manifest.requires is None
        else tuple(RequiredRuntime.of(need) for need in strictest(manifest.requires)),
    )


def _summary(
    rows: Sequence[CellVersion],
    channel: ChannelDocument,
    releases: Mapping[str, ReleaseDocument],
    before: ChannelDocument | None,
) -> tuple[PublishedCell, ...]:
    cells, stages = [], {} if before is None else before.cells
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
                channel.cells[row.cell] != stages.get(row.cell),
                channel.earlier.get(row.cell, ()),
            )
        )
    return tuple(cells)
