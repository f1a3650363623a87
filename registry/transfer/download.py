"""One file of a bundle from the web: what is here is copied, the rest asked for in ranges, all of it verified.

    manifest's entry ──> jobs in the file's order ──4 threads──> bytes, hashed a chunk ──in order──> file, hashed whole

A job is at most 8 MiB, of neighbouring chunks that come from the same place. Five buffers are used again and again, so
memory is the same for any file. Since a file grows from its start, what an interrupted transfer has left is a verified
beginning, up to the first chunk that differs.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Literal, Protocol

from registry.bundle.chunks import CHUNK_BYTES_LIMIT, Chunk
from registry.bundle.manifest import FileEntry
from registry.files.large_file import LargeFile
from registry.transfer.http import Web
from registry.transfer.local_chunks import Known, Making, Place
from registry.transfer.ranges import HttpFile
from targets.errors import FetchError

CONNECTIONS = 4
_BUFFERS = CONNECTIONS + 1  # one is being written


@dataclass
class Taken:
    """Where a fetch's bytes came from: the network, other bundles on this machine, a delta over one, an earlier try."""

    downloaded_bytes: int = 0
    reused_bytes: int = 0
    made_bytes: int = 0
    resumed_bytes: int = 0


@dataclass(frozen=True)
class Job:
    """Consecutive bytes of a file from one place: `local`, or the network. `chunks` is empty where it has none."""

    offset: int
    bytes: int
    chunks: tuple[Chunk, ...]
    local: Place | Making | None


# Where a job's bytes came from; "start": the server has no ranges, they are to be read from the file's start.
_Filled = Literal["web", "here", "made", "start"]


class _Output(Protocol):
    def write(self, data: memoryview, /) -> object: ...

    def close(self) -> None: ...


@dataclass
class _Beginning:
    """How much of a file is there and good, and its hash so far."""

    bytes: int = 0
    hasher: hashlib._Hash = field(default_factory=hashlib.sha256)


_Running = tuple[Job, memoryview, Future[_Filled]]


def jobs_of(entry: FileEntry, start: int, known: Known) -> Iterator[Job]:
    """Say how to come by a file from byte `start`, where one of its chunks begins, to its end."""
    job: Job | None = None
    for offset, size, chunk in _pieces(entry):
        if offset < start:
            continue
        local = known.place_of(entry, offset, chunk)
        own = () if chunk is None else (chunk,)
        if job is not None and job.bytes + size <= CHUNK_BYTES_LIMIT and _follows(job, local):
            job = Job(job.offset, job.bytes + size, job.chunks + own, job.local)
            continue
        if job is not None:
            yield job
        job = Job(offset, size, own, local)
    if job is not None:
        yield job


def download_bytes(beginnings: Iterable[tuple[FileEntry, int]], known: Known) -> int:
    """How much files take from the network, each from the byte on up to which it is here already."""
    return sum(job.bytes for entry, start in beginnings for job in jobs_of(entry, start, known) if job.local is None)


def _pieces(entry: FileEntry) -> Iterator[tuple[int, int, Chunk | None]]:
    offset = 0
    for chunk in entry.chunks:
        yield offset, chunk.bytes, chunk
        offset += chunk.bytes
    while offset < entry.bytes:
        size = min(CHUNK_BYTES_LIMIT, entry.bytes - offset)
        yield offset, size, None
        offset += size


def _follows(job: Job, local: Place | Making | None) -> bool:
    if not isinstance(job.local, Place) or not isinstance(local, Place):
        return job.local is None and local is None
    return (job.local.path, job.local.offset + job.bytes) == (local.path, local.offset)


@dataclass
class Transfer:
    """Brings files to this machine, one after the other, each over several connections."""

    web: Web
    known: Known
    taken: Taken
    _buffers: SimpleQueue[memoryview] = field(default_factory=SimpleQueue, init=False)

    def __post_init__(self) -> None:
        for _ in range(_BUFFERS):
            self._buffers.put(memoryview(bytearray(CHUNK_BYTES_LIMIT)))

    def bring(self, entry: FileEntry, url: str, path: Path) -> None:
        """Make `path` the entry's file, going on from what it holds already.

        Raises:
            FetchError: the server fails, or its bytes are not the ones that the manifest names.
            OSError: `path` can't be written.
        """
        beginning = _good_beginning(entry, path)
        self.taken.resumed_bytes += beginning.bytes
        trusting = beginning.bytes > 0 or self.known.place_of(entry, 0, None) is not None
        if self._bring_rest(entry, url, path, self.known, beginning):
            return
        path.unlink()
        if not entry.chunks and trusting:
            # A file without chunks is verified as one: what was here of it may be what is wrong.
            if self._bring_rest(entry, url, path, Known(()), _Beginning()):
                return
            path.unlink()
        raise FetchError(
            f"{url} is another file: the manifest says {entry.bytes} bytes, sha256:{entry.sha256}",
            fix="try again; if it stays so, the bundle there was changed: take it from another place",
        )

    def _bring_rest(self, entry: FileEntry, url: str, path: Path, known: Known, beginning: _Beginning) -> bool:
        """Append what is lacking; True where the whole file is then the right one."""
        file = HttpFile(self.web, url, entry.bytes)
        pool = ThreadPoolExecutor(CONNECTIONS)
        out: _Output = path.open("ab") if beginning.bytes else LargeFile(path)
        hasher = beginning.hasher
        try:
            running: deque[_Running] = deque()
            with ThreadPoolExecutor(1) as hashing:
                for job in jobs_of(entry, beginning.bytes, known):
                    while self._buffers.empty():
                        self._write(file, running.popleft(), out, hasher, hashing)
                    buffer = self._buffers.get()
                    running.append((job, buffer, pool.submit(self._fill, file, job, buffer[: job.bytes])))
                while running:
                    self._write(file, running.popleft(), out, hasher, hashing)
        except BaseException:
            self.web.close()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
            file.close()
            out.close()
        return hasher.hexdigest() == entry.sha256

    def _write(
        self,
        file: HttpFile,
        running: _Running,
        out: _Output,
        hasher: hashlib._Hash,
        hashing: ThreadPoolExecutor,
    ) -> None:
        """Append a job's bytes, when they are here."""
        job, buffer, filled = running
        view = buffer[: job.bytes]
        source = filled.result()
        if source == "here":
            self.taken.reused_bytes += job.bytes
        if source == "made":
            self.taken.made_bytes += job.bytes
        if source == "start":
            file.read_on(job.offset, view)
            _require_chunks(file, job, view)
        hashed = hashing.submit(hasher.update, view)
        out.write(view)
        hashed.result()
        self._buffers.put(buffer)

    def _fill(self, file: HttpFile, job: Job, view: memoryview) -> _Filled:
        """Get a job's bytes."""
        if job.local is not None and job.local.read(view) and _has_chunks(job, view):
            return "made" if isinstance(job.local, Making) else "here"
        if not file.read(job.offset, view):
            return "start"
        if not _has_chunks(job, view) and file.read(job.offset, view):  # once more: it may be the network's doing
            _require_chunks(file, job, view)
        return "web"


def _good_beginning(entry: FileEntry, path: Path) -> _Beginning:
    """Hash what an earlier try left, and cut it after the last good chunk."""
    hasher, good = hashlib.sha256(), 0
    if not path.exists():
        return _Beginning()
    room = memoryview(bytearray(CHUNK_BYTES_LIMIT))
    with path.open("r+b") as stream:
        for offset, size, chunk in _pieces(entry):
            view = room[:size]
            if stream.readinto(view) != size or (chunk and hashlib.sha256(view).hexdigest() != chunk.sha256):
                break
            hasher.update(view)
            good = offset + size
        stream.truncate(good)
    return _Beginning(good, hasher)


def _has_chunks(job: Job, view: memoryview) -> bool:
    position = 0
    for chunk in job.chunks:
        if hashlib.sha256(view[position : position + chunk.bytes]).hexdigest() != chunk.sha256:
            return False
        position += chunk.bytes
    return True


def _require_chunks(file: HttpFile, job: Job, view: memoryview) -> None:
    if not _has_chunks(job, view):
        raise FetchError(
            f"{file.url}: bytes {job.offset} to {job.offset + job.bytes - 1} are not the ones that the manifest says",
            fix="try again; if it stays so, the bundle there was changed: take it from another place",
        )
