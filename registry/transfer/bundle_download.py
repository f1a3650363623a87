"""A whole bundle from the web: the manifest is known, every file is brought here and verified, one rename ends it.

Remote ──> local chunks, deltas, ranges ──> partial folder ──every file hashed──> destination
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from registry.bundle.folder import Bundle, open_bundle
from registry.bundle.manifest import MANIFEST_NAME
from registry.files.staging import disk_errors, staged_folder
from registry.transfer.delta_download import fetched_deltas
from registry.transfer.destination import already_there, require_digest, require_space
from registry.transfer.download import Taken, Transfer
from registry.transfer.http import Web
from registry.transfer.local_chunks import Known
from registry.transfer.partial import partial_folder
from registry.transfer.remote import Remote
from targets.errors import BundleError, FetchError


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
    require_digest(manifest.digest, digest, remote.place)
    if (already := already_there(out, manifest.digest, replace=onto.replace)) is not None:
        return already
    bundles = [*_reusable(onto.reuse), *_replaced(out)]
    with disk_errors(out), partial_folder(out, manifest.digest) as partial:
        require_space(partial, manifest)
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
