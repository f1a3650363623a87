"""Fetch: a reference, a path or a URL in, a verified bundle out. Needs the base install alone for paths and URLs.

    SOURCE ──> manifest, compared with the expected digest ──> every file, hashed as it is written ──> one rename

What was at the destination before stays as it is on any error, interrupts included. If the same bundle is there
already and whole, nothing is fetched.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from registry.bundle.folder import Bundle, open_bundle
from registry.bundle.manifest import MANIFEST_NAME
from registry.catalog.choice import Query, resolve
from registry.catalog.client import CatalogTrust, install_id, open_catalog
from registry.files.digests import copy_hashed
from registry.files.staging import disk_errors, staged_folder
from registry.ledger.versions import CellVersion
from registry.store.protocol import Store
from registry.store.uris import open_store
from registry.transfer.bundle_download import DEFAULT_OPTIONS, DownloadOptions, download_bundle
from registry.transfer.destination import existing_bundle, require_digest, require_space
from registry.transfer.download import TransferStatistics
from registry.transfer.http import HttpClient
from registry.transfer.partial import partial_folder
from registry.transfer.remote import open_url
from targets.devices import target_with
from targets.errors import BundleError, FetchError, MalformedReferenceError, PhipackError, StoreError
from targets.progress import Progress, Step, silent
from targets.references import Reference
from targets.selection import Device
from targets.this_user import expanded

# Returns the versions that match a reference. `registry.ledger.reader.resolve_in`, bound to a registry, is one.
Resolver = Callable[[Reference], list[CellVersion]]

_NOTHING_TRANSFERRED = TransferStatistics()


@dataclass(frozen=True)
class Fetched:
    """A bundle that was fetched, and where its bytes came from.

    `reference`: the exact one, `MODEL:1.0.0@CELL`; None for a path or the URL of a bundle. `reasons`: why a catalog
    chose this bundle, as sentences without full stops.
    """

    bundle: Bundle
    statistics: TransferStatistics = _NOTHING_TRANSFERRED
    reference: str | None = None
    reasons: tuple[str, ...] = ()


def fetch(
    source: str,
    out: Path,
    options: DownloadOptions = DEFAULT_OPTIONS,
    *,
    resolver: Resolver | None = None,
    store: Store | None = None,
    on_progress: Progress = silent,
) -> Fetched:
    """Put a verified bundle at `out`.

    Args:
        source: `MODEL[:VERSION|:CHANNEL|:RANGE]@CELL`, the path of a bundle's folder, or the http(s) URL of one.
        out: the bundle's folder; must not exist, unless it is this very bundle already, or `options.replace`.
        options: which bundle to accept, and how to treat what is on this machine.
        resolver: looks references up.
        store: where to look for a reference's bundle before the store that it was registered with.
        on_progress: step `download` or `copy` for each file, in bytes.

    Raises:
        FetchUnreachableError: the server of a URL does not answer, or fails on all tries.
        FetchError: the source is not a bundle, or another one: file and reason. Nothing was put in place.
        StoreError: a blob of the store is damaged. RegistryError: no version matches the reference.
        BuildError: `out` exists or can't be written.
    """
    if "://" in source:
        with HttpClient() as client:
            remote = open_url(source, client)
        bundle, statistics = download_bundle(remote, out, options, on_progress=on_progress)
        return Fetched(bundle, statistics + TransferStatistics(client.received_bytes))
    if is_path(source):
        try:
            opened = open_bundle(expanded(source))
        except BundleError as error:
            raise FetchError(error.problem, fix=error.fix) from error
        return Fetched(fetch_folder(opened, out, options, on_progress=on_progress))
    reference = _reference(source)
    if resolver is None:
        raise FetchError(f"{source}: there is no registry to look it up in", fix="use a path or a URL")
    version = _one_bundle(reference, resolver(reference))
    require_digest(version.digest, options.digest, source)
    bundle, statistics = fetch_version(version, out, options, store=store, on_progress=on_progress)
    return Fetched(bundle, statistics, version.reference)


def fetch_version(
    version: CellVersion,
    out: Path,
    options: DownloadOptions = DEFAULT_OPTIONS,
    *,
    store: Store | None = None,
    on_progress: Progress = silent,
) -> tuple[Bundle, TransferStatistics]:
    """Put a registered version's bundle at `out`, from `store` where it has it, else from the one it was added to.

    Return it, and where its bytes came from.

    Raises:
        StoreError: neither store has it, or a blob is damaged. BuildError: `out` exists or can't be written.
    """
    if (existing := existing_bundle(out, version.digest, replace=options.replace)) is not None:
        return existing, TransferStatistics()
    if store is None or not store.has_bundle(version.digest):
        recorded = open_store(version.store)
        if store is None or recorded.has_bundle(version.digest):
            store = recorded
    try:
        return store.download(version.digest, out, options, on_progress=on_progress)
    except StoreError as error:
        raise type(error)(f"{version.reference}: {error.problem}", fix=error.fix) from error


def fetch_folder(
    bundle: Bundle, out: Path, options: DownloadOptions = DEFAULT_OPTIONS, *, on_progress: Progress = silent
) -> Bundle:
    """Copy a bundle to `out`, and verify size and digest of every file as it is written.

    Another process that fetches the same to `out` is waited for.

    Raises:
        FetchError: it is another bundle than `options.digest`, or a file of it is damaged.
        BuildError: `out` exists or can't be written.
    """
    manifest = bundle.manifest
    options.require(manifest, str(bundle.file(MANIFEST_NAME)))
    if (existing := existing_bundle(out, manifest.digest, replace=options.replace)) is not None:
        return existing
    with disk_errors(out), partial_folder(out, manifest.digest, on_progress):  # for its lock alone
        if (existing := existing_bundle(out, manifest.digest, replace=options.replace)) is not None:
            return existing
        _copy(bundle, out, options, on_progress)
    return open_bundle(out)


def _copy(bundle: Bundle, out: Path, options: DownloadOptions, on_progress: Progress) -> None:
    manifest = bundle.manifest
    with staged_folder(out, replace=options.replace) as folder:
        require_space(folder, manifest)
        for entry in manifest.files:
            path, source = folder / entry.path, bundle.file(entry.path)
            path.parent.mkdir(parents=True, exist_ok=True)
            on_progress(Step("copy", 0, entry.bytes, "bytes", entry.path))
            with _opened(source) as stream, path.open("xb") as out_stream:
                copied, found = copy_hashed(stream, out_stream, functools.partial(_broken, str(source)))
            if (copied, found) != (entry.bytes, entry.digest):
                raise FetchError(
                    f"{source}: {copied} bytes, {found}; the manifest says {entry.bytes} bytes, sha256:{entry.sha256}",
                    fix="try again; if the error stays, the bundle there was changed: fetch it from another source",
                )
            on_progress(Step("copy", entry.bytes, entry.bytes, "bytes", entry.path))
        (folder / MANIFEST_NAME).write_bytes(manifest.to_bytes())


def fetch_from_catalog(
    url: str,
    out: Path,
    query: Query | None = None,
    options: DownloadOptions = DEFAULT_OPTIONS,
    *,
    trust: CatalogTrust | None = None,
    on_progress: Progress = silent,
) -> Fetched:
    """Put at `out` the bundle that a catalog has for a device, verified from the trusted root to the last byte.

    Args:
        url: the catalog's folder, the one that has `metadata/`.
        out: the bundle's folder; must not exist, unless it is this very bundle already, or `options.replace`.
        query: what is wanted; the identifier of a device that phipack knows is enough.
        options: which bundle to accept, and how to treat what is on this machine.
        trust: the trusted root, needed the first time, and where trust is kept.
        on_progress: step `download` for each file, in bytes; and a notice of whom it waits for.

    Raises:
        FetchUnreachableError: the server does not answer, or fails on all tries.
        FetchError: the catalog can't be trusted, has nothing for the query, or refuses a download.
        BuildError: `out` exists or can't be written.
    """
    query, trust = query or Query(), trust or CatalogTrust()
    installation = query.install_id or install_id(trust.state)
    device = _completed(query.device)
    query = dataclasses.replace(query, device=device, install_id=installation, offer=query.offer or options.offer)
    with HttpClient() as client:
        catalog = open_catalog(url, client, trust, on_progress)
        resolved = resolve(catalog, query)
        remote = catalog.bundle(resolved)
    options = dataclasses.replace(options, offer=query.offer, os=options.os or device.os or resolved.os)
    bundle, statistics = download_bundle(remote, out, options, on_progress=on_progress)
    statistics += TransferStatistics(client.received_bytes)
    return Fetched(bundle, statistics, resolved.reference, resolved.reasons)


def is_path(source: str) -> bool:
    """Return True where the text means a folder: it looks like a path, or a bundle's folder of that name is here."""
    return source.startswith(("/", ".", "~")) or "/" in source or (Path(source) / MANIFEST_NAME).is_file()


def _reference(source: str) -> Reference:
    try:
        return Reference.parse(source)
    except MalformedReferenceError as error:
        raise FetchError(
            f"{source!r} is neither a reference, a bundle's folder nor a URL: {error.problem}", fix=error.fix
        ) from error


def _one_bundle(reference: Reference, versions: list[CellVersion]) -> CellVersion:
    if len({version.digest for version in versions}) > 1:
        cells = ", ".join(version.cell for version in versions)
        raise FetchError(
            f"{reference} matches several cells with different bundles: {cells}",
            fix=f"add the cell, such as {reference}@{versions[0].cell}",
        )
    return versions[0]


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise FetchError(f"{path} can't be read: {error.strerror}", fix="build or fetch that bundle again") from error


def _broken(source: str, error: OSError) -> PhipackError:
    return FetchError(f"{source}: reading broke off: {error}", fix="try again; check the disk if the error stays")


def _completed(device: Device) -> Device:
    """Add what phipack's own targets say about a device with this identifier."""
    target = None if device.identifier is None else target_with(device.identifier)
    if target is None:
        return device
    return replace(
        device,
        soc=device.soc or target.soc,
        ram_bytes=device.ram_bytes or int(target.ram.value),
        os=device.os or target.os,
    )
