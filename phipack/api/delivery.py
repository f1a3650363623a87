"""Bundles by path and URL, from a published catalog, in parts, and over HTTP. Needs the base install alone.

`Registry.fetch` also takes references.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from phipack.api.arguments import AnyPath, as_bundle, as_device, as_path, as_reference, parse_size
from registry.bundle.folder import Bundle
from registry.bundle.folder import open_bundle as open_folder
from registry.bundle.folder import verify as verify_bundle
from registry.bundle.parts import Part
from registry.bundle.parts import join as join_parts
from registry.bundle.parts import split as split_bundle
from registry.bundle.requirements import check_requirements
from registry.catalog.choice import Query
from registry.catalog.client import CatalogTrust
from registry.fetch import Fetched
from registry.fetch import fetch as fetch_bundle
from registry.fetch import fetch_from_catalog as fetch_choice
from registry.transfer.bundle_download import DownloadOptions
from targets.progress import Progress, silent
from targets.recipes import Format
from targets.references import Reference
from targets.runtimes import Offer
from targets.selection import Device


def open_bundle(folder: AnyPath) -> Bundle:
    """Read a bundle's manifest, without reading its files. Raises `BundleError`."""
    return open_folder(as_path(folder))


def verify(bundle: AnyPath | Bundle) -> Bundle:
    """Compare every file with the manifest: none missing, none extra, all digests right. Raises `BundleError`.

    What the manifest says that the files need of a runtime is compared with them, too.
    """
    opened = as_bundle(bundle)
    verify_bundle(opened)
    check_requirements(opened)
    return opened


def fetch(  # noqa: PLR0913 - the public face
    source: AnyPath,
    out: AnyPath,
    *,
    digest: str | None = None,
    replace: bool = False,
    reuse: Iterable[AnyPath] = (),
    runtimes: Mapping[str, str] | None = None,
    on_progress: Progress = silent,
) -> Fetched:
    """Put a verified bundle at `out`. For a reference (`MODEL:production@CELL`) see `Registry.fetch`.

    Args:
        source: the folder of a bundle, or the http(s) URL of one.
        out: the bundle's folder; must not exist, unless it is this very bundle already, or `replace`.
        digest: accept only the bundle of this digest, `sha256:…`.
        replace: replace the bundle that is there.
        reuse: folders of bundles; what they have is copied instead of downloaded. A replaced bundle always is one.
        runtimes: every runtime that the app ships and its version, such as `{"onnxruntime": "1.22.0"}`: a bundle that
            they can't run is refused before it is downloaded. By default nothing is refused.
        on_progress: called with what was downloaded.

    Raises:
        FetchError: the source is not what it should be. FetchUnreachableError: the server does not answer.
        FitError: the app's runtimes can't run it. TargetError: an unknown runtime, or a malformed version.
        BuildError: `out` exists or can't be written. Nothing was put in place.
    """
    options = download_options(digest, replace, reuse, runtimes)
    return fetch_bundle(str(source), as_path(out), options, on_progress=on_progress)


def fetch_from_catalog(  # noqa: PLR0913 - the public face
    url: str,
    out: AnyPath,
    reference: str | Reference | None = None,
    *,
    device: str | Device | None = None,
    format: Format | None = None,  # noqa: A002 - the word for it
    root: AnyPath | None = None,
    install_id: str | None = None,
    state: AnyPath | None = None,
    digest: str | None = None,
    replace: bool = False,
    reuse: Iterable[AnyPath] = (),
    runtimes: Mapping[str, str] | None = None,
    on_progress: Progress = silent,
) -> Fetched:
    """Put at `out` the bundle that a published catalog has for a device, verified from the pinned root on.

    Args:
        url: the catalog's folder, the one that has `metadata/`.
        out: the bundle's folder; must not exist, unless it is this very bundle already, or `replace`.
        reference: `MODEL[:VERSION|:CHANNEL|:^RANGE][@CELL]`; the production channel of the one model by default.
        device: what asks: an identifier such as `iPhone15,4`, or a `Device` that says more.
        format: what the app's runtime reads: `gguf`, `onnx` or `coreml`.
        root: file of the trusted root; needed the first time.
        install_id: whose place in a staged rollout counts; made once and kept by default.
        state: folder where trust and the installation's name are kept.
        digest: accept only the bundle of this digest, `sha256:…`.
        replace: replace the bundle that is there.
        reuse: folders of bundles whose bytes are copied instead of downloaded.
        runtimes: every runtime that the app ships and its version, such as `{"onnxruntime": "1.22.0"}`: it gets the
            newest release that they can run, and `reasons` say why. By default the newest.
        on_progress: called with what was downloaded.

    Raises:
        FetchError: the catalog can't be trusted or downloaded, or has nothing for what was asked, or nothing that the
            app's runtimes can run. TargetError: an unknown runtime, or a malformed version.
        BuildError: `out` exists or can't be written. Nothing was put in place.
    """
    asked = Query(
        reference=None if reference is None else as_reference(reference),
        device=as_device(device),
        format=format,
        install_id=install_id,
    )
    return fetch_choice(
        url,
        as_path(out),
        asked,
        download_options(digest, replace, reuse, runtimes),
        trust=CatalogTrust(None if root is None else as_path(root), None if state is None else as_path(state)),
        on_progress=on_progress,
    )


def split(
    bundle: AnyPath | Bundle, out: AnyPath, max_part_bytes: int | str, *, replace: bool = False
) -> tuple[Part, ...]:
    """Cut a bundle into `out/part-1` and so on, for packers that limit what one package may hold.

    Args:
        bundle: a folder or an opened bundle.
        out: folder of the parts; must not exist, unless `replace`.
        max_part_bytes: what a part may hold at most: a number, or a text such as `1.5GB` or `512MiB`.
        replace: replace what is at `out`.

    Raises:
        PhipackError: `max_part_bytes` is no size.
        BuildError: parts are too small, or `out` exists or can't be written.
        BundleError: the bundle's files are not those of its manifest.
    """
    return tuple(split_bundle(as_bundle(bundle), as_path(out), parse_size(max_part_bytes), replace=replace))


def join(parts: AnyPath, out: AnyPath, *, digest: str | None = None, replace: bool = False) -> Bundle:
    """Join the parts in a folder to the bundle that they were cut from, every byte verified.

    Raises:
        BundleError: a part is missing or changed, or it is another bundle than `digest`. Nothing was put in place.
        BuildError: `out` exists (unless `replace`) or can't be written.
    """
    return join_parts(as_path(parts), as_path(out), digest=digest, replace=replace)


def read_runtimes(pairs: Iterable[str]) -> dict[str, str]:
    """Return versions by runtime from `NAME=VERSION` pairs. Raises `TargetError` where one is malformed or unknown."""
    return {name: str(version) for name, version in Offer.parse(pairs).versions.items()}


def download_options(
    digest: str | None, replace: bool, reuse: Iterable[AnyPath], runtimes: Mapping[str, str] | None = None
) -> DownloadOptions:
    """Return the options of a download as the registry takes them."""
    return DownloadOptions(digest, replace, tuple(as_path(folder) for folder in reuse), Offer.of(runtimes or {}))
