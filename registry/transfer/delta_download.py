"""Which delta file a fetch takes, and taking it: only to download less. Nothing depends on it being good."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from registry.bundle.folder import Bundle
from registry.transfer.delta import DeltaFile, open_delta
from registry.transfer.download import Taken, Transfer, download_bytes
from registry.transfer.http import Web
from registry.transfer.local_chunks import Known
from registry.transfer.partial import received_bytes
from registry.transfer.remote import Remote, RemoteDelta
from targets.errors import FetchError


@contextmanager
def fetched_deltas(
    remote: Remote, bundles: Sequence[Bundle], web: Web, partial: Path, taken: Taken
) -> Iterator[list[DeltaFile]]:
    """Download the delta that saves most over one of `bundles` into the partial folder, and open it.

    None where none saves anything, or it can't be had: then its bytes that came are kept for the next try.
    """
    delta = _fetched(remote, bundles, web, partial, taken)
    if delta is None:
        yield []
        return
    with delta:
        yield [delta]


def _fetched(remote: Remote, bundles: Sequence[Bundle], web: Web, partial: Path, taken: Taken) -> DeltaFile | None:
    offered = _best(remote, bundles, partial)
    if offered is None:
        return None
    old = next(bundle for bundle in bundles if bundle.digest == offered.from_)
    place = _place(partial, offered)
    try:
        # Connections of its own: a transfer that fails ends all of them.
        with Web() as aside:
            try:
                Transfer(aside, Known(()), taken).bring(offered.file, offered.url, place)
            finally:
                web.count(aside.received_bytes)
        delta = open_delta(place, old)
    except FetchError:
        return None
    if delta.index.to != remote.manifest.digest:
        delta.close()
        return None
    return delta


def _best(remote: Remote, bundles: Sequence[Bundle], partial: Path) -> RemoteDelta | None:
    """Give the delta with the fewest bytes to come, where those are fewer than what it saves and the disk has room."""
    here = {bundle.digest for bundle in bundles}
    usable = [delta for delta in remote.deltas if delta.from_ in here]
    if not usable:
        return None
    best = min(usable, key=lambda delta: _to_come(partial, delta))
    room = shutil.disk_usage(partial).free + received_bytes(partial) - remote.manifest.total_bytes
    if best.bytes > room or _to_come(partial, best) >= _download_bytes(remote, bundles, partial):
        return None
    return best


def _to_come(partial: Path, delta: RemoteDelta) -> int:
    return delta.bytes - _size(_place(partial, delta))


def _download_bytes(remote: Remote, bundles: Sequence[Bundle], partial: Path) -> int:
    """How much a fetch without a delta has to download still."""
    files = ((entry, _size(partial / str(number))) for number, entry in enumerate(remote.manifest.files))
    return download_bytes(files, Known(bundles))


def _place(partial: Path, delta: RemoteDelta) -> Path:
    return partial / f"delta-{delta.file.sha256[:16]}"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
