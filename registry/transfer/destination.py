"""The folder that a bundle is fetched to: what is there already, whether it may be replaced, whether there is room."""

from __future__ import annotations

import shutil
from pathlib import Path

from registry.bundle.folder import Bundle, open_bundle, verify
from registry.bundle.manifest import MANIFEST_NAME, Manifest
from registry.files.staging import disk_errors, sweep
from registry.transfer.partial import received_bytes, sweep_partials
from targets.errors import BuildError, BundleError, FetchError


def require_digest(found: str, wanted: str | None, place: str) -> None:
    """Raise `FetchError` where a bundle was asked for by digest and another one was found at `place`."""
    if wanted is not None and found != wanted:
        raise FetchError(
            f"{place} is bundle {found}, not {wanted}", fix="ask for the right version, or the right digest"
        )


def already_there(out: Path, digest: str, *, replace: bool) -> Bundle | None:
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


def require_space(folder: Path, manifest: Manifest) -> None:
    """Raise `FetchError` where the disk of `folder` has no room for what is still to come of the bundle."""
    free = shutil.disk_usage(folder).free + received_bytes(folder)
    if manifest.total_bytes > free:
        raise FetchError(
            f"the bundle is {manifest.total_bytes / 1e9:.2f} GB, and {folder.parent} has {free / 1e9:.2f} GB left",
            fix="free space, or name a folder on another disk",
        )
