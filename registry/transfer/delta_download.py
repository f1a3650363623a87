"""Which delta file a fetch uses, and its download: only to download less. Nothing depends on it being good."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from registry.bundle.folder import Bundle
from registry.transfer.delta import DeltaFile, open_delta
from registry.transfer.download import Transfer, TransferStatistics, download_bytes
from registry.transfer.local_chunks import LocalChunks
from registry.transfer.partial import received_bytes
from registry.transfer.remote import Remote, RemoteDelta
from targets.errors import FetchError
from targets.progress import Progress


def download_delta(
    remote: Remote, bundles: Sequence[Bundle], partial: Path, on_progress: Progress
) -> tuple[DeltaFile | None, TransferStatistics]:
    """Download the delta that saves most over one of `bundles` into the partial folder, and open it.

    Return None in its place where no delta saves anything, or it can't be downloaded or used. Bytes that were received
    of it are kept for the next try.
    """
    offered = _best(remote, bundles, partial)
    if offered is None:
        return None, TransferStatistics()
    old = next(bundle for bundle in bundles if bundle.digest == offered.from_)
    path = _path(partial, offered)
    with Transfer(on_progress=on_progress) as transfer:
        try:
            transfer.download(offered.file, offered.url, path)
            delta = open_delta(path, old)
        except FetchError:
            return None, transfer.statistics
    if delta.index.to != remote.manifest.digest:
        delta.close()
        return None, transfer.statistics
    return delta, transfer.statistics


def _best(remote: Remote, bundles: Sequence[Bundle], partial: Path) -> RemoteDelta | None:
    """Return the delta with the fewest bytes to download, where it saves more than that and the disk has room."""
    here = {bundle.digest for bundle in bundles}
    usable = [delta for delta in remote.deltas if delta.from_ in here]
    if not usable:
        return None
    best = min(usable, key=lambda delta: _missing_bytes(partial, delta))
    room = shutil.disk_usage(partial).free + received_bytes(partial) - remote.manifest.total_bytes
    if best.bytes > room or _missing_bytes(partial, best) >= _bytes_without_delta(remote, bundles, partial):
        return None
    return best


def _missing_bytes(partial: Path, delta: RemoteDelta) -> int:
    return delta.bytes - _size(_path(partial, delta))


def _bytes_without_delta(remote: Remote, bundles: Sequence[Bundle], partial: Path) -> int:
    """Return how much is left to download without a delta."""
    files = ((entry, _size(partial / str(number))) for number, entry in enumerate(remote.manifest.files))
    return download_bytes(files, LocalChunks(bundles))


def _path(partial: Path, delta: RemoteDelta) -> Path:
    return partial / f"delta-{delta.file.sha256[:16]}"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
