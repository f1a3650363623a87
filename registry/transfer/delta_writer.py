"""Writing delta files (`delta.py` describes them). Needs numpy, which a client that only fetches does not.

    chunks of NEW that OLD does not have ──paired with OLD's chunk of the same tensor──> changed bytes ──zstd──> frames

A tensor's chunks are in both bundles in the same order and of the same sizes, whatever was inserted before them.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import accumulate
from pathlib import Path

import numpy as np
import zstandard

from registry.bundle.chunks import Chunk
from registry.bundle.folder import Bundle
from registry.bundle.manifest import FileEntry
from registry.transfer.delta import (
    DELTA_SCHEMA,
    INDEX_BYTES_LIMIT,
    LENGTH_BYTES,
    MAGIC,
    STEP_LIMIT,
    DeltaIndex,
    FrameEntry,
)
from registry.transfer.download import download_bytes
from registry.transfer.local_chunks import FileRange, LocalChunks

THREADS = 2
WORTHWHILE_SHARE = 0.5  # of what a fetch without it downloads: a larger delta is not offered
_LEVEL = 3  # higher ones gain next to nothing: what is left has no repetitions
_CLEARLY_LESS = 0.5  # than the chunk: a frame so short needs no comparison
_SEARCH_LIMIT = 4096  # chunks: with more, a common order is not searched: its time grows with their square


@dataclass(frozen=True)
class Delta:
    """A delta that was written: its file's `bytes`, and how many `chunks` it rebuilds.

    `fetch_bytes`: what a fetch downloads of files without it; `left_bytes`: what it downloads in addition to it.
    """

    bytes: int
    chunks: int
    fetch_bytes: int
    left_bytes: int

    @property
    def share(self) -> float:
        """What is downloaded with it, as a share of what is downloaded without."""
        return (self.bytes + self.left_bytes) / self.fetch_bytes if self.fetch_bytes else 1.0


@dataclass(frozen=True)
class _Wanted:
    """A chunk of NEW that OLD does not have: where it is, and path and offset in OLD of the one to rebuild it from."""

    chunk: Chunk
    source: FileRange
    base: tuple[str, int] | None


def make_delta(
    old: Bundle, new: Bundle, out: Path, *, threads: int = THREADS, worthwhile_share: float = WORTHWHILE_SHARE
) -> Delta | None:
    """Write the delta from `old` to `new` to `out`, a new file.

    Return None, and write no file, where with it `worthwhile_share` of the download or more would be left. Both bundles
    are trusted: verify them before. Memory: at most about 200 MB for each thread. Raises `OSError`.
    """
    local = LocalChunks([old])
    missing = Counter(chunk for entry in new.manifest.files for chunk in _missing(entry, local))
    fetch_bytes = left_bytes = download_bytes(((entry, 0) for entry in new.manifest.files), local)
    entries: list[FrameEntry] = []
    with tempfile.TemporaryFile(dir=out.parent) as frames:
        for wanted, frame, base in _framed(old, _wanted(old, new, set(missing)), threads):
            if len(frame) >= wanted.chunk.bytes:
                continue
            frames.write(frame)
            path, at = base or (None, None)
            entries.append(FrameEntry(chunk=wanted.chunk, frame=len(frame), base=path, at=at))
            left_bytes -= wanted.chunk.bytes * missing[wanted.chunk]
        index = DeltaIndex.model_validate(
            {"schema": DELTA_SCHEMA, "from": old.digest, "to": new.digest, "frames": entries}
        ).to_bytes()
        head = MAGIC + len(index).to_bytes(LENGTH_BYTES, "little") + index
        made = Delta(len(head) + frames.tell(), len(entries), fetch_bytes, left_bytes)
        if len(index) > INDEX_BYTES_LIMIT or made.share >= worthwhile_share:
            return None
        frames.seek(0)
        with out.open("xb") as file:
            file.write(head)
            shutil.copyfileobj(frames, file)
    return made


def _missing(entry: FileEntry, local: LocalChunks) -> Iterator[Chunk]:
    offset = 0
    for chunk in entry.chunks:
        if local.find(entry, offset, chunk) is None:
            yield chunk
        offset += chunk.bytes


def _wanted(old: Bundle, new: Bundle, missing: set[Chunk]) -> Iterator[_Wanted]:
    """Yield each chunk of NEW that is `missing` in OLD once, paired."""
    olds = {entry.path: entry for entry in old.manifest.files}
    for entry in new.manifest.files:
        before = olds.get(entry.path)
        pairs = {} if before is None else _pairs(before.chunks, entry.chunks)
        begins = [] if before is None else _begins(before.chunks)
        for number, (offset, chunk) in enumerate(zip(_begins(entry.chunks), entry.chunks, strict=True)):
            if chunk in missing:
                missing.remove(chunk)
                base = (entry.path, begins[pairs[number]]) if number in pairs else None
                yield _Wanted(chunk, FileRange(new.file(entry.path), offset), base)


def _begins(chunks: Sequence[Chunk]) -> list[int]:
    """Return the chunks' offsets in the file."""
    sizes = [chunk.bytes for chunk in chunks]
    return [end - size for end, size in zip(accumulate(sizes), sizes, strict=True)]


def _pairs(old: Sequence[Chunk], new: Sequence[Chunk]) -> dict[int, int]:
    """Pair chunks of one file: number in NEW -> number in OLD, of the same size and in the same order.

    From the end first, since what grows is a file's head; then from its start; what is between, by search.
    """
    a, b = [chunk.bytes for chunk in old], [chunk.bytes for chunk in new]
    end = 0
    while end < min(len(a), len(b)) and a[-1 - end] == b[-1 - end]:
        end += 1
    start = 0
    while start < min(len(a), len(b)) - end and a[start] == b[start]:
        start += 1
    pairs = {number: number for number in range(start)}
    pairs |= {len(b) - number: len(a) - number for number in range(1, end + 1)}
    middle, other = a[start : len(a) - end], b[start : len(b) - end]
    if max(len(middle), len(other)) <= _SEARCH_LIMIT:
        for block in SequenceMatcher(None, middle, other, autojunk=False).get_matching_blocks():
            pairs |= {start + block.b + step: start + block.a + step for step in range(block.size)}
    return pairs


def _framed(
    old: Bundle, chunks: Iterable[_Wanted], threads: int
) -> Iterator[tuple[_Wanted, bytes, tuple[str, int] | None]]:
    """Make frames in parallel and yield them in order, with what each is rebuilt from."""
    with ThreadPoolExecutor(threads) as pool:
        running: deque[tuple[_Wanted, Future[tuple[bytes, tuple[str, int] | None]]]] = deque()
        for wanted in chunks:
            running.append((wanted, pool.submit(_frame, old, wanted)))
            if len(running) > threads:
                first, made = running.popleft()
                yield first, *made.result()
        for first, made in running:
            yield first, *made.result()


def _frame(old: Bundle, wanted: _Wanted) -> tuple[bytes, tuple[str, int] | None]:
    """Return the chunk's frame: of changes where there is a base, unless the chunk itself is shorter."""
    content = _read(wanted.source, wanted.chunk.bytes)
    frame = b"" if wanted.base is None else _compressed(*_changes(_read_base(old, wanted), content))
    if frame and len(frame) < _CLEARLY_LESS * len(content):
        return frame, wanted.base
    itself = _compressed(content)
    return (frame, wanted.base) if 0 < len(frame) < len(itself) else (itself, None)


def _read_base(old: Bundle, wanted: _Wanted) -> bytes:
    assert wanted.base is not None
    path, offset = wanted.base
    return _read(FileRange(old.file(path), offset), wanted.chunk.bytes)


def _changes(base: bytes, content: bytes) -> tuple[bytes, bytes]:
    """Return the steps and differences that lead from `base` to `content`, which are not the same."""
    differences = np.frombuffer(content, np.uint8) - np.frombuffer(base, np.uint8)
    positions = np.flatnonzero(differences).astype(np.int32)
    distances = np.diff(positions, prepend=np.int32(-1))
    resting = (distances - 1) // STEP_LIMIT  # steps of 255 before the one that arrives
    ends = np.cumsum(resting + 1, dtype=np.int32) - 1
    steps = np.full(ends[-1] + 1, STEP_LIMIT, np.uint8)
    steps[ends] = distances - resting * STEP_LIMIT
    values = np.zeros_like(steps)
    values[ends] = differences[positions]
    return steps.tobytes(), values.tobytes()


def _compressed(*parts: bytes) -> bytes:
    """Return one zstd frame that states its content's size. Each part has blocks, and so statistics, of its own."""
    stream = zstandard.ZstdCompressor(level=_LEVEL).compressobj(size=sum(map(len, parts)))
    frame = b""
    for part in parts:
        frame += stream.compress(part) + stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    return frame + stream.flush()


def _read(source: FileRange, size: int) -> bytes:
    content = bytearray(size)
    if not source.read(memoryview(content)):
        raise OSError(f"{source.path} can't be read from byte {source.offset} to {source.offset + size}")
    return bytes(content)
