"""The folder that a bundle is fetched to: what it holds, whether that may be replaced, whether there is room."""

from __future__ import annotations

import shutil
from pathlib import Path

from registry.bundle.folder import Bundle, open_bundle, verify
from registry.bundle.manifest import MANIFEST_NAME, Manifest
from registry.files.owned import require_not_planted
from registry.files.staging import disk_errors, sweep
from registry.transfer.partial import received_bytes, sweep_partials
from targets.errors import BuildError, BundleError, FetchError


def require_digest(found: str, wanted: str | None, source: str) -> None:
    """Raise `FetchError` where `source` holds another bundle than the one whose digest was asked for."""
    if wanted is not None and found != wanted:
        raise FetchError(
            f"{source} is bundle {found}, not {wanted}", fix="ask for another version, or correct the digest"
        )


def existing_bundle(out: Path, digest: str, *, replace: bool) -> Bundle | None:
    """Return the bundle at `out` where it is the wanted one and whole; None where `out` is free or may be replaced.

    What dead processes left for `out` is swept first: one may have died between its two renames.

    Raises:
        BuildError: `out` holds another bundle and `replace` is not set, or it holds something that is not a bundle; or
            another user has put it into a folder that everybody may write, and can change it when it is verified.
    """
    with disk_errors(out):
        sweep(out)
        require_not_planted(out)
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    try:
        found = open_bundle(out)
        if found.digest == digest:
            verify(found)
            sweep_partials(out)
            return found
    except BundleError as error:
        if not (out / MANIFEST_NAME).is_file():
            raise BuildError(
                f"{out} exists and is not a bundle; it is never replaced", fix="name another folder"
            ) from error
        problem = error.problem
    else:
        problem = f"{out} holds another bundle, {found.digest}"
    if not replace:
        raise BuildError(problem, fix="name another folder, or allow it with --replace")
    return None


def require_space(folder: Path, manifest: Manifest) -> None:
    """Raise `FetchError` where the disk of `folder` has no room for what is missing of the bundle."""
    free = shutil.disk_usage(folder).free + received_bytes(folder)
    if manifest.total_bytes > free:
        raise FetchError(
            f"the bundle is {manifest.total_bytes / 1e9:.2f} GB, and {folder.parent} has {free / 1e9:.2f} GB left",
            fix="free space, or name a folder on another disk",
        )
