"""Chunks: any split joins to the file again, and any chunk is found wherever it has gone."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from devtools.bundles import make_bundle
from registry.bundle import chunks
from registry.bundle.chunks import CHUNK_BYTES_LIMIT, Chunk, digest_in_chunks
from registry.bundle.folder import Bundle, seal
from registry.bundle.manifest import FileEntry, Manifest
from registry.transfer import download
from registry.transfer.download import Job, jobs_of
from registry.transfer.local_chunks import FileRange, LocalChunks
from tests.support.chunked import entry_of

anywhere = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def spans(entry: FileEntry) -> list[tuple[int, Chunk]]:
    """Chunks with their offsets."""
    offsets = [sum(chunk.bytes for chunk in entry.chunks[:count]) for count in range(len(entry.chunks))]
    return list(zip(offsets, entry.chunks, strict=True))


@anywhere
@given(content=st.binary(max_size=300), borders=st.sets(st.integers(0, 300)), limit=st.integers(1, 64))
def test_any_split_joins_to_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, borders: set[int], limit: int
) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES_LIMIT", limit)
    path = tmp_path / "file"
    path.write_bytes(content)
    found = digest_in_chunks(path, borders)
    assert found.sha256 == hashlib.sha256(content).hexdigest()
    assert sum(chunk.bytes for chunk in found.chunks) == len(content)
    entry = FileEntry(path="file", bytes=len(content), sha256=found.sha256, chunks=found.chunks)
    begins = {offset for offset, _ in spans(entry)}
    assert {border for border in borders if border < len(content)} <= begins
    for offset, chunk in spans(entry):
        assert chunk.bytes <= limit
        assert chunk.sha256 == hashlib.sha256(content[offset : offset + chunk.bytes]).hexdigest()


@anywhere
@given(
    pieces=st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=8),
    head=st.binary(max_size=20),
    order=st.randoms(use_true_random=False),
)
def test_every_chunk_is_found_wherever_it_went(tmp_path: Path, pieces: list[bytes], head: bytes, order: object) -> None:
    moved = [head, *order.sample(pieces, len(pieces))]  # type: ignore[attr-defined]
    old = bundle_of(tmp_path, entry_of(moved, "elsewhere/old"))
    content = b"".join(moved)
    entry = entry_of(pieces)
    local = LocalChunks([old])
    for offset, chunk in spans(entry):
        place = local.find(entry, offset, chunk)
        assert place is not None
        found = b"".join(pieces) if entry.bytes == len(content) and not head and moved[1:] == pieces else content
        assert found[place.offset : place.offset + chunk.bytes] == b"".join(pieces)[offset : offset + chunk.bytes]
    assert all(job.local is not None for job in jobs_of(entry, 0, local))


def bundle_of(folder: Path, *entries: FileEntry) -> Bundle:
    """A bundle that says it has these files."""
    manifest = make_bundle(folder / "made", {"x": b""}).manifest.model_copy(update={"files": list(entries)})
    return Bundle(folder / "made", manifest)


@given(
    sizes=st.lists(st.integers(1, CHUNK_BYTES_LIMIT), max_size=12),
    rest=st.integers(0, 3 * CHUNK_BYTES_LIMIT),
    start=st.integers(0, 12),
)
def test_jobs_cover_the_file_in_order_and_fit_a_buffer(sizes: list[int], rest: int, start: int) -> None:
    made = tuple(Chunk(bytes=size, sha256=f"{number:064x}") for number, size in enumerate(sizes))
    entry = FileEntry(path="x", bytes=sum(sizes) or rest, sha256="f" * 64, chunks=made)
    position = begin = sum(sizes[:start])
    for job in jobs_of(entry, begin, LocalChunks()):
        assert job.offset == position
        assert 0 < job.bytes <= CHUNK_BYTES_LIMIT
        assert not job.chunks or sum(chunk.bytes for chunk in job.chunks) == job.bytes
        position += job.bytes
    assert position == entry.bytes


def test_neighbours_from_the_same_place_are_one_job(tmp_path: Path) -> None:
    old = bundle_of(tmp_path, entry_of([b"aa", b"bbb", b"cc"], "old"))
    entry = entry_of([b"new", b"er", b"bbb", b"cc", b"aa", b"x"])
    jobs = [(job.bytes, job.local) for job in jobs_of(entry, 0, LocalChunks([old]))]
    path = old.file("old")
    assert jobs == [(5, None), (5, FileRange(path, 2)), (2, FileRange(path, 0)), (1, None)]


def test_a_manifest_says_chunks_in_few_bytes_and_reads_them_back(bundle: Bundle) -> None:
    entry = entry_of([bytes([number % 251, number // 251]) * 100 for number in range(700)])
    chunked = bundle.manifest.model_copy(update={"files": [entry, *bundle.manifest.files]})
    raw = chunked.to_bytes()
    assert Manifest.parse(raw, source="it") == chunked
    assert len(raw) - len(bundle.manifest.to_bytes()) < 64_000
    assert b"chunks" not in bundle.manifest.to_bytes()
    assert seal(bundle.path, chunked).digest != bundle.digest


@pytest.mark.parametrize(
    "written", ["0 " + "0" * 64, "-1 " + "0" * 64, f"{CHUNK_BYTES_LIMIT + 1} " + "0" * 64, "5 abc", "5", "", 7]
)
def test_chunks_that_are_none_are_refused(written: object) -> None:
    with pytest.raises(ValidationError):
        FileEntry.model_validate({"path": "x", "bytes": 5, "sha256": "0" * 64, "chunks": [written]})


@pytest.mark.parametrize("size", [4, 6])
def test_chunks_must_fill_the_file(size: int) -> None:
    with pytest.raises(ValidationError, match="chunks of 5 bytes"):
        FileEntry.model_validate({"path": "x", "bytes": size, "sha256": "0" * 64, "chunks": ["5 " + "0" * 64]})


def test_many_small_chunks_are_put_together_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """100,000 chunks took 25 s: each of them copied the list of those before it."""
    made: list[int] = []

    def job(offset: int, size: int, chunks: tuple[Chunk, ...], local: FileRange | None) -> Job:
        made.append(len(chunks))
        return Job(offset, size, chunks, local)

    monkeypatch.setattr(download, "Job", job)
    chunk = Chunk(bytes=1, sha256="0" * 64)
    entry = FileEntry(path="x", bytes=5000, sha256="0" * 64, chunks=(chunk,) * 5000)
    assert [found.chunks for found in jobs_of(entry, 0, LocalChunks())] == [(chunk,) * 5000]
    assert sum(made) == 5000
