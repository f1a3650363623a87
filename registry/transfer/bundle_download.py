"""A whole bundle from the web: its manifest is known, every file is downloaded and verified, one rename ends it.

Remote ──> local chunks, deltas, ranges ──> partial folder ──every file hashed──> destination
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from registry.bundle.folder import Bundle, open_bundle
from registry.bundle.manifest import MANIFEST_NAME, Manifest
from registry.bundle.requirements import require_runnable
from registry.files.staging import disk_errors, staged_folder
from registry.transfer.delta_download import download_delta
from registry.transfer.destination import existing_bundle, require_digest, require_space
from registry.transfer.download import Transfer, TransferStatistics
from registry.transfer.local_chunks import LocalChunks
from registry.transfer.partial import partial_folder
from registry.transfer.remote import Remote
from targets.errors import BundleError, FetchError
from targets.progress import Progress, silent
from targets.runtimes import NO_OFFER, Offer


@dataclass(frozen=True)
class DownloadOptions:
    """What to accept, and how to treat the bundles that are on this machine.

    `digest`: accept only the bundle of this digest, `sha256:…`. `replace`: the bundle at the destination may be
    replaced. `reuse`: folders of bundles whose bytes are copied rather than downloaded; a bundle that is replaced is
    always one of them. `offer`, `os`: accept only what an app with these runtimes, on this OS, can run.
    """

    digest: str | None = None
    replace: bool = False
    reuse: Sequence[Path] = ()
    offer: Offer = NO_OFFER
    os: str | None = None

    def require(self, manifest: Manifest, source: str) -> None:
        """Raise `FetchError` or `FitError` where the bundle at `source` is not one that is accepted."""
        require_digest(manifest.digest, self.digest, source)
        require_runnable(manifest, self.offer, self.os, source)


DEFAULT_OPTIONS = DownloadOptions()


def download_bundle(
    remote: Remote, out: Path, options: DownloadOptions = DEFAULT_OPTIONS, *, on_progress: Progress = silent
) -> tuple[Bundle, TransferStatistics]:
    """Put a bundle from the web at `out`: copy what other bundles on this machine have, download the rest.

    A delta file that the server offers over one of them is used where it saves bytes, and ignored where it, or the
    bundle that it applies to, is damaged. If the download breaks off, what was received is kept in a folder next to
    `out` (`partial.py`), and the next try continues from it. Another process that downloads it to `out` is waited for.

    Raises:
        FetchUnreachableError: the server does not answer, or fails on all tries.
        FetchError: its bytes are not the manifest's. FitError: the app's runtimes can't run it.
        BuildError: `out` exists or can't be written.
    """
    manifest = remote.manifest
    options.require(manifest, remote.manifest_url)
    if (existing := existing_bundle(out, manifest.digest, replace=options.replace)) is not None:
        return existing, TransferStatistics()
    bundles = [*_reusable(options.reuse), *_replaced(out)]
    with disk_errors(out), partial_folder(out, manifest.digest, on_progress) as partial:
        if (existing := existing_bundle(out, manifest.digest, replace=options.replace)) is not None:
            return existing, TransferStatistics()  # by the process that was waited for
        require_space(partial, manifest)
        delta, statistics = download_delta(remote, bundles, partial, on_progress)
        local = LocalChunks(bundles, [] if delta is None else [delta])
        with delta or nullcontext(), Transfer(local, on_progress) as transfer:
            for number, entry in enumerate(manifest.files):
                transfer.download(entry, remote.url_of(entry), partial / str(number))
        with staged_folder(out, replace=options.replace) as folder:
            for number, entry in enumerate(manifest.files):
                path = folder / entry.path
                path.parent.mkdir(parents=True, exist_ok=True)
                (partial / str(number)).rename(path)
            (folder / MANIFEST_NAME).write_bytes(manifest.to_bytes())
    return open_bundle(out), statistics + transfer.statistics


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
