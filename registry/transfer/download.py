"""One file of a bundle from the web: what is on this machine is copied, the rest requested in ranges, all verified.

    manifest's entry ──> jobs in the file's order ──4 threads──> bytes, hashed by chunk ──in order──> file, hashed whole

A job is at most 8 MiB, of neighbouring chunks that come from the same source. Five buffers are reused throughout, so
memory is the same for any file. Since a file grows from its start, what an interrupted transfer has left is a verified
beginning, up to the first chunk that differs.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import BinaryIO, Literal, Protocol, Self

from registry.bundle.chunks import CHUNK_BYTES_LIMIT, Chunk
from registry.bundle.manifest import FileEntry
from registry.files.large_file import LargeFile
from registry.files.owned import open_found
from registry.transfer.http import HttpClient
from registry.transfer.local_chunks import DeltaChunk, FileRange, LocalChunks
from registry.transfer.ranges import HttpFile
from targets.errors import FetchError
from targets.progress import Progress, Step, silent

CONNECTIONS = 4
_BUFFERS = CONNECTIONS + 1  # one is being written
_TRY_ELSEWHERE = "try again; if the error stays, the bundle there was changed: fetch it from another source"


class WrongContentError(FetchError):
    """The server has bytes that are not the ones that the manifest names."""


@dataclass(frozen=True)
class TransferStatistics:
    """Where a bundle's bytes came from.

    `downloaded_bytes`: the network, manifests and deltas included; `reused_bytes`: other bundles on this machine;
    `delta_bytes`: rebuilt from such a bundle by a delta; `resumed_bytes`: kept from an earlier try.
    """

    downloaded_bytes: int = 0
    reused_bytes: int = 0
    delta_bytes: int = 0
    resumed_bytes: int = 0

    def __add__(self, other: TransferStatistics) -> TransferStatistics:
        """Return the sums."""
        return TransferStatistics(
            self.downloaded_bytes + other.downloaded_bytes,
            self.reused_bytes + other.reused_bytes,
            self.delta_bytes + other.delta_bytes,
            self.resumed_bytes + other.resumed_bytes,
        )


@dataclass(frozen=True)
class Job:
    """Consecutive bytes of a file from one source: `local`, or the network. `chunks` is empty where it has none."""

    offset: int
    bytes: int
    chunks: tuple[Chunk, ...]
    local: FileRange | DeltaChunk | None


# Where a job's bytes came from. "no ranges": they are not there yet, and must be read from the file's start.
_Source = Literal["network", "reused", "delta", "no ranges"]


class _Output(Protocol):
    def write(self, data: memoryview, /) -> object: ...

    def close(self) -> None: ...


@dataclass
class _Beginning:
    """How many bytes of a file are there and verified, and its hash so far."""

    bytes: int = 0
    hasher: hashlib._Hash = field(default_factory=hashlib.sha256)


_Running = tuple[Job, memoryview, Future[_Source]]


@dataclass
class _File:
    """A file while it is being written."""

    entry: FileEntry
    remote: HttpFile
    out: _Output
    hasher: hashlib._Hash


def jobs_of(entry: FileEntry, start: int, local: LocalChunks) -> Iterator[Job]:
    """Yield how to get a file from byte `start`, where one of its chunks begins, to its end."""
    begin, size, chunks, local_source = start, 0, list[Chunk](), None
    for offset, length, chunk in _pieces(entry):
        if offset < start:
            continue
        source = local.find(entry, offset, chunk)
        if size and not (size + length <= CHUNK_BYTES_LIMIT and _continues(local_source, size, source)):
            yield Job(begin, size, tuple(chunks), local_source)
            size, chunks = 0, []
        if not size:
            begin, local_source = offset, source
        size += length
        chunks += () if chunk is None else (chunk,)
    if size:
        yield Job(begin, size, tuple(chunks), local_source)


def download_bytes(files: Iterable[tuple[FileEntry, int]], local: LocalChunks) -> int:
    """Return how many bytes files take from the network, each from the byte on up to which it is here already."""
    return sum(job.bytes for entry, start in files for job in jobs_of(entry, start, local) if job.local is None)


def _pieces(entry: FileEntry) -> Iterator[tuple[int, int, Chunk | None]]:
    offset = 0
    for chunk in entry.chunks:
        yield offset, chunk.bytes, chunk
        offset += chunk.bytes
    while offset < entry.bytes:
        size = min(CHUNK_BYTES_LIMIT, entry.bytes - offset)
        yield offset, size, None
        offset += size


def _continues(before: FileRange | DeltaChunk | None, size: int, source: FileRange | DeltaChunk | None) -> bool:
    """Return whether a source goes on where `size` bytes of the one before end."""
    if not isinstance(before, FileRange) or not isinstance(source, FileRange):
        return before is None and source is None
    return (before.path, before.offset + size) == (source.path, source.offset)


class Transfer:
    """Downloads files to this machine, one after the other, each over several connections of its own.

    An error in `download`, `cancel` from any thread, and leaving its block end all its requests; it downloads nothing
    after that. Progress is reported for each job: step `download`, in bytes of the file.
    """

    def __init__(self, local: LocalChunks | None = None, on_progress: Progress = silent) -> None:
        self._local = local or LocalChunks()
        self._on_progress = on_progress
        self._client = HttpClient()
        self._counts: Counter[str] = Counter()
        self._buffers: SimpleQueue[memoryview] = SimpleQueue()
        for _ in range(_BUFFERS):
            self._buffers.put(memoryview(mmap.mmap(-1, CHUNK_BYTES_LIMIT)))  # a page costs when it is first used

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    @property
    def statistics(self) -> TransferStatistics:
        """Where the bytes came from, so far."""
        counts = self._counts
        return TransferStatistics(self._client.received_bytes, counts["reused"], counts["delta"], counts["resumed"])

    def cancel(self) -> None:
        """End all requests at once; `download` raises `FetchError` where it runs in another thread."""
        self._client.cancel()

    def download(self, entry: FileEntry, url: str, path: Path) -> None:
        """Write the entry's file to `path`, continuing what is there already.

        Raises:
            WrongContentError: the server's bytes are not the ones that the manifest names.
            FetchError: the server fails, or `cancel` was called.
            OSError: `path` can't be written.
        """
        self._client.raise_if_cancelled()
        beginning = _verified_beginning(entry, path)
        self._counts["resumed"] += beginning.bytes
        trusting = beginning.bytes > 0 or self._local.find(entry, 0, None) is not None
        if self._append_rest(entry, url, path, self._local, beginning):
            return
        path.unlink()
        if not entry.chunks and trusting:
            # A file without chunks is verified as one: what was here of it may be what is wrong.
            if self._append_rest(entry, url, path, LocalChunks(), _Beginning()):
                return
            path.unlink()
        raise WrongContentError(
            f"{url} is another file: the manifest says {entry.bytes} bytes, sha256:{entry.sha256}", fix=_TRY_ELSEWHERE
        )

    def _append_rest(self, entry: FileEntry, url: str, path: Path, local: LocalChunks, beginning: _Beginning) -> bool:
        """Append what is missing. Return True where the whole file is then the right one."""
        remote = HttpFile(self._client, url, entry.bytes)
        pool = ThreadPoolExecutor(CONNECTIONS)
        out: _Output = _append_to(path) if beginning.bytes else LargeFile(path)
        file = _File(entry, remote, out, beginning.hasher)
        try:
            self._report(file, beginning.bytes)
            running: deque[_Running] = deque()
            with ThreadPoolExecutor(1) as hashing:
                for job in jobs_of(entry, beginning.bytes, local):
                    while self._buffers.empty():
                        self._write(file, running.popleft(), hashing)
                    buffer = self._buffers.get()
                    running.append((job, buffer, pool.submit(self._fill, remote, job, buffer[: job.bytes])))
                while running:
                    self._write(file, running.popleft(), hashing)
        except BaseException:
            self.cancel()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
            remote.close()
            out.close()
        return file.hasher.hexdigest() == entry.sha256

    def _write(self, file: _File, running: _Running, hashing: ThreadPoolExecutor) -> None:
        """Append a job's bytes as soon as they are there."""
        job, buffer, filled = running
        view = buffer[: job.bytes]
        source = filled.result()
        self._counts[source] += job.bytes
        if source == "no ranges":
            file.remote.read_on(job.offset, view)
            _require_chunks(file.remote, job, view)
        hashed = hashing.submit(file.hasher.update, view)
        file.out.write(view)
        hashed.result()
        self._buffers.put(buffer)
        self._report(file, job.offset + job.bytes)

    def _report(self, file: _File, done: int) -> None:
        self._on_progress(Step("download", done, file.entry.bytes, "bytes", file.entry.path))

    def _fill(self, remote: HttpFile, job: Job, view: memoryview) -> _Source:
        """Get a job's bytes."""
        if job.local is not None and job.local.read(view) and _has_chunks(job, view):
            return "delta" if isinstance(job.local, DeltaChunk) else "reused"
        if not remote.read(job.offset, view):
            return "no ranges"
        if not _has_chunks(job, view) and remote.read(job.offset, view):  # once more: the network may have failed
            _require_chunks(remote, job, view)
        return "network"


def _verified_beginning(entry: FileEntry, path: Path) -> _Beginning:
    """Hash what an earlier try left, and truncate it after the last good chunk. Nothing good: the file is removed."""
    hasher, good = hashlib.sha256(), 0
    try:
        handle = open_found(path, os.O_RDWR)
    except FileNotFoundError:
        return _Beginning()
    room = memoryview(bytearray(CHUNK_BYTES_LIMIT))
    with os.fdopen(handle, "r+b") as stream:
        for offset, size, chunk in _pieces(entry):
            view = room[:size]
            if stream.readinto(view) != size or (chunk and hashlib.sha256(view).hexdigest() != chunk.sha256):
                break
            hasher.update(view)
            good = offset + size
        stream.truncate(good)
    if not good:
        path.unlink()
    return _Beginning(good, hasher)


def _append_to(path: Path) -> BinaryIO:
    return os.fdopen(open_found(path, os.O_WRONLY | os.O_APPEND), "ab")


def _has_chunks(job: Job, view: memoryview) -> bool:
    position = 0
    for chunk in job.chunks:
        if hashlib.sha256(view[position : position + chunk.bytes]).hexdigest() != chunk.sha256:
            return False
        position += chunk.bytes
    return True


def _require_chunks(remote: HttpFile, job: Job, view: memoryview) -> None:
    if not _has_chunks(job, view):
        raise WrongContentError(
            f"{remote.url}: bytes {job.offset} to {job.offset + job.bytes - 1} are not the ones of the manifest",
            fix=_TRY_ELSEWHERE,
        )
