"""Fetch: a reference, a path or a URL in, a verified bundle out. Needs the base install alone for paths and URLs.

    SOURCE ──> manifest, held against the expected digest ──> every file, hashed as it is written ──> one rename

What is at the destination before is left as it is on any error, interrupt included. The same bundle, already there and
whole, is done at once.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from registry.bundle import MANIFEST_NAME, Bundle, Manifest, copy_hashed, open_bundle, verify
from registry.delta_fetch import fetched_deltas
from registry.http_requests import Web
from registry.http_source import Remote, open_url
from registry.partial import partial_folder, received_bytes, sweep_partials
from registry.placement import disk_errors, staged_folder, sweep
from registry.reuse import Known
from registry.store import Store
from registry.store_uris import open_store
from registry.transfer import Taken, Transfer
from registry.versions import CellVersion
from targets.errors import BuildError, BundleError, FetchError, MalformedReferenceError, PhipackError, StoreError
from targets.references import Reference

# Gives the versions that a reference names. `registry.reading.resolve_in`, bound to a registry, is one.
Resolver = Callable[[Reference], list[CellVersion]]


@dataclass(frozen=True)
class Onto:
    """How a download meets what is here. `replace`: it may take the place of a bundle.

    `reuse`: bundles' folders whose bytes are copied rather than downloaded; the one that is replaced always is one.
    `taken` is told where the bytes came from.
    """

    replace: bool = False
    reuse: Sequence[Path] = ()
    taken: Taken = field(default_factory=Taken)


NEW_PLACE = Onto()


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
    _require_digest(version.digest, digest, source)
    return fetch_version(version, out, store=store, replace=replace)


def fetch_version(version: CellVersion, out: Path, *, store: Store | None = None, replace: bool = False) -> Bundle:
    """Put a registered version's bundle at `out`, from `store` where it has it, else from the one it was added to."""
    if (already := _already_there(out, version.digest, replace=replace)) is not None:
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
    _require_digest(manifest.digest, digest, str(bundle.file(MANIFEST_NAME)))
    if (already := _already_there(out, manifest.digest, replace=replace)) is not None:
        return already
    with staged_folder(out, replace=replace) as folder:
        _require_space(folder, manifest)
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


def fetch_remote(remote: Remote, web: Web, out: Path, *, digest: str | None = None, onto: Onto = NEW_PLACE) -> Bundle:
    """Put a bundle from the web at `out`: what other bundles here have is copied, the rest downloaded.

    A delta file that the place offers over one of them is taken where it is smaller, and done without where it, or the
    bundle that it applies to, is damaged. What was received whole when it breaks off stays beside `out` (`partial.py`),
    and the next try goes on from there.

    Raises:
        FetchError: the server fails, its bytes are not the manifest's, or another process fetches to `out`.
        BuildError: `out` exists or can't be written.
    """
    manifest = remote.manifest
    _require_digest(manifest.digest, digest, remote.place)
    if (already := _already_there(out, manifest.digest, replace=onto.replace)) is not None:
        return already
    bundles = [*_reusable(onto.reuse), *_replaced(out)]
    with disk_errors(out), partial_folder(out, manifest.digest) as partial:
        _require_space(partial, manifest)
        with fetched_deltas(remote, bundles, web, partial, onto.taken) as deltas:
            transfer = Transfer(web, Known(bundles, deltas), onto.taken)
            for number, entry in enumerate(manifest.files):
                transfer.bring(entry, remote.url_of(entry), partial / str(number))
        with staged_folder(out, replace=onto.replace) as folder:
            for number, entry in enumerate(manifest.files):
                path = folder / entry.path
                path.parent.mkdir(parents=True, exist_ok=True)
                (partial / str(number)).rename(path)
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


def _require_digest(found: str, wanted: str | None, place: str) -> None:
    if wanted is not None and found != wanted:
        raise FetchError(
            f"{place} is bundle {found}, not {wanted}", fix="ask for the right version, or the right digest"
        )


def _already_there(out: Path, digest: str, *, replace: bool) -> Bundle | None:
    """Give the bundle at `out` where it is the wanted one and whole; refuse to replace what is no bundle at all.

    First what dead processes left for `out` is swept: one may have died when the bundle was there, and the old one too.
    """
    with disk_errors(out):
        sweep(out)
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    try:
        there = open_bundle(out)
        if there.digest == digest:
            verify(there)
            sweep_partials(out)
            return there
    except BundleError as error:
        if not (out / MANIFEST_NAME).is_file():
            raise BuildError(
                f"{out} exists and is not a bundle; it is not replaced", fix="name another folder"
            ) from error
        problem = error.problem
    else:
        problem = f"{out} holds another bundle, {there.digest}"
    if not replace:
        raise BuildError(problem, fix="name another folder, or give --replace")
    return None


def _reusable(folders: Sequence[Path]) -> list[Bundle]:
    try:
        return [open_bundle(folder) for folder in folders]
    except BundleError as error:
        raise FetchError(f"nothing can be reused: {error.problem}", fix="name folders of bundles") from error


def _replaced(out: Path) -> list[Bundle]:
    try:
        return [open_bundle(out)]
    except BundleError:
        return []


def _require_space(folder: Path, manifest: Manifest) -> None:
    free = shutil.disk_usage(folder).free + received_bytes(folder)
    if manifest.total_bytes > free:
        raise FetchError(
            f"the bundle is {manifest.total_bytes / 1e9:.2f} GB, and {folder.parent} has {free / 1e9:.2f} GB left",
            fix="free space, or name a folder on another disk",
        )


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise FetchError(f"{path} can't be read: {error.strerror}", fix="build or fetch that bundle again") from error


def _broken(place: str, error: OSError) -> PhipackError:
    return FetchError(f"{place}: reading broke off: {error}", fix="try again")
