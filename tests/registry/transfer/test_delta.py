"""Delta files: what they make is the new bundle's, whatever the two are; what is damaged makes nothing."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry.bundle.chunks import CHUNK_BYTES_LIMIT, Chunk
from registry.bundle.folder import Bundle
from registry.transfer.delta import INDEX_BYTES_LIMIT, MAGIC, open_delta
from registry.transfer.delta_writer import Delta, _pairs, make_delta
from registry.transfer.local_chunks import LocalChunks
from targets.errors import FetchError
from tests.support.cases import examples
from tests.support.chunked import TENSORS, _random, bundle_of, nudged
from tests.support.folders import flip

anywhere = settings(
    deadline=None, max_examples=examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def made(old: Bundle, new: Bundle, out: Path) -> Delta:
    delta = make_delta(old, new, out)
    assert delta is not None
    assert delta.bytes == out.stat().st_size
    return delta


def chunks_lacking(old: Bundle, new: Bundle) -> list[Chunk]:
    local = LocalChunks([old])
    found = []
    for entry in new.manifest.files:
        begin = 0
        for chunk in entry.chunks:
            if local.find(entry, begin, chunk) is None:
                found.append(chunk)
            begin += chunk.bytes
    return found


def content_of(bundle: Bundle, wanted: Chunk) -> bytes:
    for entry in bundle.manifest.files:
        begin = 0
        for chunk in entry.chunks:
            if chunk == wanted:
                return bundle.file(entry.path).read_bytes()[begin : begin + chunk.bytes]
            begin += chunk.bytes
    raise KeyError(wanted)


@pytest.fixture
def old(tmp_path: Path) -> Bundle:
    return bundle_of(tmp_path / "old", {"model.gguf": [b"head", *TENSORS], "tokenizer.json": [b"words" * 9000]})


@pytest.fixture
def new(tmp_path: Path) -> Bundle:
    pieces = [b"a longer head", *map(nudged, TENSORS)]
    return bundle_of(tmp_path / "new", {"model.gguf": pieces, "tokenizer.json": [b"words" * 9000]})


# --- laws

_byte_changes = st.lists(st.tuples(st.integers(0, 2999), st.integers(0, 255)), max_size=40)
_tensor = st.tuples(st.sampled_from([0, 1, 7, 255, 256, 700, 3000]), st.integers(0, 5), _byte_changes)


@anywhere
@given(
    tensors=st.lists(_tensor, min_size=1, max_size=6),
    head=st.binary(max_size=50),
    drop=st.integers(0, 7),
    extra=st.lists(st.tuples(st.integers(0, 6), st.binary(min_size=1, max_size=400)), max_size=3),
)
def test_whatever_changed_the_delta_makes_the_new_chunks(
    tmp_path_factory: pytest.TempPathFactory,
    tensors: list[tuple[int, int, list[tuple[int, int]]]],
    head: bytes,
    drop: int,
    extra: list[tuple[int, bytes]],
) -> None:
    folder = tmp_path_factory.mktemp("pair")
    before = [random.Random(seed * size).randbytes(size) for size, seed, _ in tensors]
    after = [bytearray(tensor) for tensor in before]
    for tensor, (_, _, changes) in zip(after, tensors, strict=True):
        for place, byte in changes:
            if place < len(tensor):
                tensor[place] = byte
    pieces = [bytes(tensor) for number, tensor in enumerate(after) if number != drop]
    for place, piece in extra:
        pieces.insert(place, piece)
    old = bundle_of(folder / "old", {"weights": [b"head", *before]})
    new = bundle_of(folder / "new", {"weights": [head, *pieces]})
    delta = make_delta(old, new, folder / "delta", worthwhile_share=1e9)
    assert delta is not None or (delta is None and not chunks_lacking(old, new))
    if delta is None:
        assert not (folder / "delta").exists()
        return
    with open_delta(folder / "delta", old) as file:
        assert (file.index.from_, file.index.to) == (old.digest, new.digest)
        left = 0
        for chunk in chunks_lacking(old, new):
            if chunk in file:
                assert file.chunk(chunk) == content_of(new, chunk)
            else:
                left += chunk.bytes
        assert left == delta.left_bytes
        for entry in file.index.frames:
            assert entry.frame <= entry.chunk.bytes


@given(
    old=st.lists(st.sampled_from([1, 2, 3, 8]), max_size=30), new=st.lists(st.sampled_from([1, 2, 3, 8]), max_size=30)
)
def test_pairs_are_of_one_size_and_keep_the_order(old: list[int], new: list[int]) -> None:
    before, after = ([Chunk(bytes=size, sha256="0" * 64) for size in sizes] for sizes in (old, new))
    pairs = sorted(_pairs(before, after).items())
    assert all(old[there] == new[here] for here, there in pairs)
    assert [there for _, there in pairs] == sorted({there for _, there in pairs})
    assert len(pairs) == len(new) or old != new


def test_making_it_again_gives_the_same_bytes(old: Bundle, new: Bundle, tmp_path: Path) -> None:
    made(old, new, tmp_path / "one")
    make_delta(old, new, tmp_path / "two", threads=1)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


# --- how small


def test_what_changed_a_little_costs_little(old: Bundle, new: Bundle, tmp_path: Path) -> None:
    delta = made(old, new, tmp_path / "delta")
    assert delta.fetch_bytes == sum(map(len, TENSORS)) + len(b"a longer head")
    assert delta.left_bytes == len(b"a longer head")  # shorter than a frame of its own
    assert delta.share < 0.12
    with open_delta(tmp_path / "delta", old) as file:
        frames = file.index.frames
    assert {(entry.base, entry.at) for entry in frames} >= {("model.gguf", 4), ("model.gguf", 4 + 30_500)}


@pytest.mark.parametrize("at", [0, 3, 6])
def test_an_added_tensor_does_not_keep_others_from_being_paired(old: Bundle, tmp_path: Path, at: int) -> None:
    pieces = [nudged(tensor) for tensor in TENSORS]
    pieces.insert(at, _random.randbytes(3000))
    new = bundle_of(tmp_path / "new", {"model.gguf": [b"another head", *pieces], "tokenizer.json": [b"words" * 9000]})
    assert made(old, new, tmp_path / "delta").share < 0.18


def test_both_at_once_a_dropped_and_an_added_one(old: Bundle, tmp_path: Path) -> None:
    pieces = [nudged(tensor) for tensor in TENSORS]
    del pieces[4]
    pieces.insert(1, _random.randbytes(2000))
    new = bundle_of(tmp_path / "new", {"model.gguf": [b"h", *pieces], "tokenizer.json": [b"words" * 9000]})
    assert made(old, new, tmp_path / "delta").share < 0.15


@pytest.mark.parametrize("what", ["other tensors", "the same bundle", "heavily changed ones"])
def test_none_where_it_would_not_halve_the_download(old: Bundle, tmp_path: Path, what: str) -> None:
    change: dict[str, Callable[[bytes], bytes]] = {
        "other tensors": lambda tensor: _random.randbytes(len(tensor)),
        "the same bundle": lambda tensor: tensor,
        "heavily changed ones": lambda tensor: bytes(_random.choice((byte, _random.randrange(256))) for byte in tensor),
    }
    pieces = [b"head", *map(change[what], TENSORS)]
    new = bundle_of(tmp_path / "new", {"model.gguf": pieces, "tokenizer.json": [b"words" * 9000]})
    assert make_delta(old, new, tmp_path / "delta") is None
    assert not (tmp_path / "delta").exists()


def test_long_rests_between_changes(tmp_path: Path) -> None:
    before = bytes(1000) + bytes(range(256)) * 4
    for places in ([254], [255], [256], [509, 510, 511], [0, 2023], [1999], [255, 510, 765]):
        after = bytearray(before)
        for place in places:
            after[place] ^= 0x80
        folder = tmp_path / "-".join(map(str, places))
        folder.mkdir()
        old = bundle_of(folder / "old", {"weights": [before]})
        new = bundle_of(folder / "new", {"weights": [bytes(after)]})
        made(old, new, folder / "delta")
        with open_delta(folder / "delta", old) as file:
            assert file.index.frames[0].base == "weights"
            assert file.chunk(file.index.frames[0].chunk) == bytes(after)


# --- what is damaged, or lies


def test_a_delta_for_another_bundle_is_refused(old: Bundle, new: Bundle, tmp_path: Path) -> None:
    made(old, new, tmp_path / "delta")
    with pytest.raises(FetchError, match="it applies to sha256:"):
        open_delta(tmp_path / "delta", new)


def test_a_damaged_base_makes_nothing_of_it_alone(old: Bundle, new: Bundle, tmp_path: Path) -> None:
    made(old, new, tmp_path / "delta")
    flip(old.file("model.gguf"), 10_000)
    with open_delta(tmp_path / "delta", old) as file:
        found = [file.chunk(entry.chunk) is not None for entry in file.index.frames]
    assert found.count(False) == 1
    old.file("model.gguf").write_bytes(b"short")
    with open_delta(tmp_path / "delta", old) as file:
        assert not any(file.chunk(entry.chunk) for entry in file.index.frames if entry.base)
    old.file("model.gguf").unlink()
    with open_delta(tmp_path / "delta", old) as file:
        assert not any(file.chunk(entry.chunk) for entry in file.index.frames if entry.base)


def test_any_changed_byte_is_noticed(old: Bundle, new: Bundle, tmp_path: Path) -> None:
    """What is then made is right, or nothing."""
    made(old, new, tmp_path / "delta")
    raw = (tmp_path / "delta").read_bytes()
    wanted = {entry.chunk: content_of(new, entry.chunk) for entry in _frames(raw)}
    for place in [*range(0, 3000, 7), *range(3000, len(raw), 97)]:
        changed = bytearray(raw)
        changed[place] ^= 1 << (place % 8)
        (tmp_path / "changed").write_bytes(changed)
        try:
            with open_delta(tmp_path / "changed", old) as file:
                for chunk, content in wanted.items():
                    assert file.chunk(chunk) in {None, content}
        except FetchError:
            continue


def _frames(raw: bytes) -> tuple[object, ...]:
    from registry.transfer.delta import DeltaIndex

    size = int.from_bytes(raw[16:24], "little")
    return DeltaIndex.model_validate_json(raw[24 : 24 + size]).frames


def written(path: Path, old: Bundle, frames: list[tuple[dict[str, object], bytes]], **index: object) -> Path:
    """Write a delta file by what its description says alone."""
    content = {
        "schema": "phipack.delta/1",
        "from": old.digest,
        "to": old.digest,
        "frames": [head for head, _ in frames],
    }
    raw = json.dumps(content | index).encode()
    path.write_bytes(MAGIC + len(raw).to_bytes(8, "little") + raw + b"".join(frame for _, frame in frames))
    return path


def frame_of(content: bytes, makes: bytes, **more: object) -> tuple[dict[str, object], bytes]:
    frame = zstandard.ZstdCompressor().compress(content)
    return {"chunk": f"{len(makes)} {hashlib.sha256(makes).hexdigest()}", "frame": len(frame), **more}, frame


def read_by_the_description(raw: bytes, old: Bundle) -> dict[str, bytes]:
    """What another client would make, by its digest."""
    assert raw[:16] == b"phipack.delta/1\n"
    begin = 24 + int.from_bytes(raw[16:24], "little")
    made = {}
    for frame in json.loads(raw[24:begin])["frames"]:
        content = zstandard.ZstdDecompressor().decompress(raw[begin : begin + frame["frame"]])
        begin += frame["frame"]
        size, digest = frame["chunk"].split()
        if "base" in frame:
            base = bytearray(old.file(frame["base"]).read_bytes()[frame["at"] :][: int(size)])
            position, count = -1, len(content) // 2
            for step, difference in zip(content[:count], content[count:], strict=True):
                position += step
                base[position] = (base[position] + difference) % 256
            content = bytes(base)
        made[digest] = content
    assert begin == len(raw)
    return made


def test_a_file_that_was_made_is_as_described(old: Bundle, new: Bundle, tmp_path: Path) -> None:
    made(old, new, tmp_path / "delta")
    found = read_by_the_description((tmp_path / "delta").read_bytes(), old)
    assert len(found) == len(TENSORS)
    for chunk in chunks_lacking(old, new):
        assert found.get(chunk.sha256, b"a longer head") == content_of(new, chunk)


def test_a_file_written_by_the_description_is_read(old: Bundle, tmp_path: Path) -> None:
    base = old.file("model.gguf").read_bytes()[4:30_004]
    changed = bytearray(base)
    changed[0] = (changed[0] + 5) % 256
    changed[300] = (changed[300] - 1) % 256
    changed[-1] = (changed[-1] + 128) % 256
    rest = 29_999 - 300
    steps = [1, 255, 300 - 255, *[255] * (rest // 255), rest % 255]
    differences = [5, 0, 255, *[0] * (rest // 255), 128]
    delta = written(
        tmp_path / "delta",
        old,
        [
            frame_of(bytes(steps + differences), bytes(changed), base="model.gguf", at=4),
            frame_of(b"plain " * 100, b"plain " * 100),
        ],
    )
    with open_delta(delta, old) as file:
        assert file.chunk(file.index.frames[0].chunk) == bytes(changed)
        assert file.chunk(file.index.frames[1].chunk) == b"plain " * 100
        assert file.chunk(Chunk(bytes=1, sha256="0" * 64)) is None


def test_a_frame_that_unpacks_to_more_than_its_chunk_is_not_unpacked(old: Bundle, tmp_path: Path) -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 30))
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(b"x" * 50_000)
    wanted = f"50000 {hashlib.sha256(b'x' * 50_000).hexdigest()}"
    frames = [({"chunk": wanted, "frame": len(frame)}, frame) for frame in (bomb[:40_000], unsized)]
    for frame in frames:
        with open_delta(written(tmp_path / "delta", old, [frame]), old) as file:
            assert file.chunk(file.index.frames[0].chunk) is None


@pytest.mark.parametrize(
    ("content", "makes"),
    [
        (b"\x01\x01\xff", b"x" * 30),  # an odd number of bytes
        (b"\xff" * 20, b"x" * 30),  # steps beyond the end
        (b"", b"x" * 30),  # no change at all
        (b"\x00\x01", b"x" * 30),  # a step of 0
    ],
)
def test_changes_that_are_none_make_nothing(old: Bundle, tmp_path: Path, content: bytes, makes: bytes) -> None:
    delta = written(tmp_path / "delta", old, [frame_of(content, makes, base="model.gguf", at=4)])
    with open_delta(delta, old) as file:
        assert file.chunk(file.index.frames[0].chunk) is None


FRAME = frame_of(b"x" * 100, b"x" * 100)
ILL = {
    "no delta": lambda raw: b"PK" + raw[2:],
    "cut": lambda raw: raw[:-1],
    "longer": lambda raw: raw + b"x",
    "cut in the index": lambda raw: raw[:60],
    "cut in the head": lambda raw: raw[:20],
    "nothing": lambda _: b"",
    "an index of any length": lambda raw: raw[:16] + (INDEX_BYTES_LIMIT + 1).to_bytes(8, "little") + raw[24:],
    "no JSON": lambda raw: raw[:24] + b"x" + raw[25:],
}


@pytest.mark.parametrize("name", ILL)
def test_what_is_no_delta_file_is_refused(old: Bundle, tmp_path: Path, name: str) -> None:
    path = written(tmp_path / "delta", old, [FRAME])
    path.write_bytes(ILL[name](path.read_bytes()))
    with pytest.raises(FetchError, match="not a delta that can be used"):
        open_delta(path, old)


@pytest.mark.parametrize(
    "head",
    [
        {"base": "../secret", "at": 0},
        {"base": "/etc/passwd", "at": 0},
        {"base": "manifest.json", "at": 0},
        {"base": "tokenizer.json", "at": 44_990},
        {"base": "tokenizer.json", "at": -1},
        {"base": "tokenizer.json"},
        {"at": 4},
        {"frame": 0},
        {"frame": 101},
        {"chunk": f"{CHUNK_BYTES_LIMIT + 1} {'0' * 64}"},
        {"more": 1},
    ],
)
def test_an_index_that_says_what_can_not_be_is_refused(old: Bundle, tmp_path: Path, head: dict[str, object]) -> None:
    frame = ({**FRAME[0], **head}, FRAME[1])
    with pytest.raises(FetchError, match="not a delta that can be used"):
        open_delta(written(tmp_path / "delta", old, [frame]), old)


def test_another_schema_and_a_missing_file_are_refused(old: Bundle, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="not a delta"):
        open_delta(written(tmp_path / "delta", old, [FRAME], schema="phipack.delta/2"), old)
    with pytest.raises(FetchError, match="can't be read"):
        open_delta(tmp_path / "none", old)
