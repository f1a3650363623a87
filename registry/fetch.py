"""Fetch: a reference, a path or a URL in, a verified bundle out. Needs the base install alone for paths and URLs.

    SOURCE ──> manifest, held against the expected digest ──> every file, hashed as it is written ──> one rename

What is at the destination before is left as it is on any error, interrupt included. The same bundle, already there and
whole, is done at once.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from registry.bundle.folder import Bundle, open_bundle
from registry.bundle.manifest import MANIFEST_NAME
from registry.catalog.choice import Query, Resolved, resolve
from registry.catalog.client import install_id, open_catalog
from registry.files.digests import copy_hashed
from registry.files.staging import staged_folder
from registry.ledger.versions import CellVersion
from registry.store.protocol import Store
from registry.store.uris import open_store
from registry.transfer.bundle_download import Onto, fetch_remote
from registry.transfer.destination import already_there, require_digest, require_space
from registry.transfer.download import Taken
from registry.transfer.http import Web
from registry.transfer.remote import open_url
from targets.devices import load_targets
from targets.errors import BundleError, FetchError, MalformedReferenceError, PhipackError, StoreError
from targets.references import Reference
from targets.selection import Device

# Gives the versions that a reference names. `registry.ledger.reader.resolve_in`, bound to a registry, is one.
Resolver = Callable[[Reference], list[CellVersion]]


def fetch(  # noqa: PLR0913 - the public face
    source: str,
    out: Path,
    *,
    resolver: Resolver | None = None,
    store: Store | None = None,
    digest: str | None = None,
    replace: bool = False,
    reuse: Sequence[Path] = (),
    taken: Taken | None = None,
) -> Bundle:
    """Put a verified bundle at `out`.

    Args:
        source: `MODEL[:VERSION|:CHANNEL|:RANGE]@CELL`, the path of a bundle's folder, or the http(s) URL of one.
        out: the bundle's folder; must not exist, unless it is this very bundle already, or `replace`.
        resolver: asked for what a reference names.
        store: where to look for a reference's bundle before the store that it was registered with.
        digest: accept only the bundle of this digest, `sha256:…`.
        replace: put it in the place of the bundle that is there.
        reuse: folders of bundles; what they have of it is copied from there where it would be downloaded. The
            replaced bundle is always one.
        taken: told how many bytes came from where; a download alone tells it.

    Raises:
        FetchError: the source is not what it should be: file and reason. Nothing was put in place.
        StoreError: a blob of the store is damaged. RegistryError: the reference names nothing.
        BuildError: `out` exists or can't be written.
    """
    if "://" in source:
        taken = Taken() if taken is None else taken
        with Web() as web:
            try:
                remote = open_url(source, web)
                return fetch_remote(remote, web, out, digest=digest, onto=Onto(replace, reuse, taken))
            finally:
                taken.downloaded_bytes += web.received_bytes
    if is_path(source):
        try:
            opened = open_bundle(Path(source).expanduser())
        except BundleError as error:
            raise FetchError(error.problem, fix=error.fix) from error
        return fetch_folder(opened, out, digest=digest, replace=replace)
    reference = _reference(source)
    if resolver is None:
        raise FetchError(f"{source}: there is no registry to look it up in", fix="give a path or a URL")
    version = _one_bundle(reference, resolver(reference))
    require_digest(version.digest, digest, source)
    return fetch_version(version, out, store=store, replace=replace)


def fetch_version(version: CellVersion, out: Path, *, store: Store | None = None, replace: bool = False) -> Bundle:
    """Put a registered version's bundle at `out`, from `store` where it has it, else from the one it was added to."""
    if (already := already_there(out, version.digest, replace=replace)) is not None:
        return already
    if store is None or not store.has_bundle(version.digest):
        recorded = open_store(version.store)
        if store is None or recorded.has_bundle(version.digest):
            store = recorded
    try:
        return store.materialise(version.digest, out, replace=replace)
    except StoreError as error:
        raise StoreError(f"{version.reference}: {error.problem}", fix=error.fix) from error


def fetch_folder(bundle: Bundle, out: Path, *, digest: str | None = None, replace: bool = False) -> Bundle:
    """Copy a bundle to `out`, size and digest of every file verified as it is written."""
    manifest = bundle.manifest
    require_digest(manifest.digest, digest, str(bundle.file(MANIFEST_NAME)))
    if (already := already_there(out, manifest.digest, replace=replace)) is not None:
        return already
    with staged_folder(out, replace=replace) as folder:
        require_space(folder, manifest)
        for entry in manifest.files:
            path, place = folder / entry.path, bundle.file(entry.path)
            path.parent.mkdir(parents=True, exist_ok=True)
            with _opened(place) as stream, path.open("wb") as out_stream:
                copied, found = copy_hashed(stream, out_stream, functools.partial(_broken, str(place)))
            if (copied, found) != (entry.bytes, entry.digest):
                raise FetchError(
                    f"{place}: {copied} bytes, {found}; the manifest says {entry.bytes} bytes, sha256:{entry.sha256}",
                    fix="try again; if it stays so, the bundle there was changed: take it from another place",
                )
        (folder / MANIFEST_NAME).write_bytes(manifest.to_bytes())
    return open_bundle(out)


def is_path(source: str) -> bool:
    """True where the text means a folder: it has a path's form, or a bundle's folder of that name is here."""
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
            f"{reference} names a bundle a cell: {cells}", fix=f"name the cell: {reference}@{versions[0].cell}"
        )
    return versions[0]


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise FetchError(f"{path} can't be read: {error.strerror}", fix="build or fetch that bundle again") from error


def _broken(place: str, error: OSError) -> PhipackError:
    return FetchError(f"{place}: reading broke off: {error}", fix="try again")


def fetch_from_catalog(  # noqa: PLR0913 - the public face
    url: str,
    out: Path,
    query: Query | None = None,
    *,
    root: Path | None = None,
    state: Path | None = None,
    digest: str | None = None,
    onto: Onto | None = None,
) -> tuple[Bundle, Resolved]:
    """Put at `out` the bundle that a catalog has for a device, verified from the pinned root down to the last byte.

    Args:
        url: the catalog's folder, the one that has `metadata/`.
        out: the bundle's folder; must not exist, unless it is this very bundle already, or `onto.replace`.
        query: what is asked for; a device that phipack knows by its identifier needs no more said of it.
        root: the trusted root's file; needed the first time.
        state: where trust and the installation's name are kept (`catalog/client.py`).
        digest: accept only the bundle of this digest, `sha256:…`.
        onto: how the download meets what is here.

    Raises:
        FetchError: the catalog is not to be trusted, has nothing for the query, or can't be downloaded.
        BuildError: `out` exists or can't be written.
    """
    query, onto = query or Query(), onto or Onto()
    query = dataclasses.replace(query, device=_known(query.device), install_id=query.install_id or install_id(state))
    with Web() as web:
        try:
            catalog = open_catalog(url, web, root=root, state=state)
            resolved = resolve(catalog, query)
            return fetch_remote(catalog.bundle(resolved), web, out, digest=digest, onto=onto), resolved
        finally:
            onto.taken.downloaded_bytes += web.received_bytes


def _known(device: Device) -> Device:
    """Add what phipack's own targets know of a device with this identifier."""
    for target in load_targets().values():
        if device.identifier in target.identifiers:
            return Device(
                device.identifier,
                device.soc or target.soc,
                device.ram_bytes or int(target.ram.value),
                device.os or target.os,
                device.os_version,
            )
    return device
