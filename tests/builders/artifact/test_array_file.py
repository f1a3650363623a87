"""Array files: chunks at arrays' borders, that stay the same wherever the array comes to lie."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders.artifact import content_borders
from builders.artifact.array_file import ArrayFile
from builders.artifact.content_borders import content_pieces
from builders.phases import Phases
from registry.bundle.chunks import CHUNK_BYTES_LIMIT, FileDigest

ARRAYS = [np.arange(count, dtype=np.uint8) + np.uint8(count % 7) for count in (1, 31, 32, 33, 200)]


def written(path: Path, head: bytes, *, pads_end: bool = False, arrays: list[np.ndarray] = ARRAYS) -> FileDigest:
    with ArrayFile(path, 32, Phases(), head=head, pads_end=pads_end) as file:
        file.append(arrays[:2])
        file.append(arrays[2:])
    return file.digest


@pytest.mark.parametrize("pads_end", [False, True])
def test_digests_are_of_what_was_written(tmp_path: Path, pads_end: bool) -> None:
    found = written(tmp_path / "file", b"head", pads_end=pads_end)
    content = (tmp_path / "file").read_bytes()
    assert found.sha256 == hashlib.sha256(content).hexdigest()
    assert [chunk.bytes for chunk in found.chunks] == [32, 32, 32, 32, 64, 224 if pads_end else 200]
    begin = 0
    for chunk in found.chunks:
        assert chunk.sha256 == hashlib.sha256(content[begin : begin + chunk.bytes]).hexdigest()
        begin += chunk.bytes


def test_a_longer_head_shifts_arrays_and_changes_none_of_their_chunks(tmp_path: Path) -> None:
    short, longer = written(tmp_path / "a", b"head"), written(tmp_path / "b", b"a longer head" * 100)
    assert short.chunks[1:] == longer.chunks[-len(ARRAYS) :]
    assert short.chunks[0] != longer.chunks[0]


def test_a_large_array_is_cut_at_the_limit(tmp_path: Path) -> None:
    large = np.zeros(2 * CHUNK_BYTES_LIMIT + 5, np.uint8)
    found = written(tmp_path / "file", b"", arrays=[large, *ARRAYS[:2]])
    assert [chunk.bytes for chunk in found.chunks[:3]] == [CHUNK_BYTES_LIMIT, CHUNK_BYTES_LIMIT, 32]


@settings(deadline=None)
@given(st.binary(max_size=40_000))
def test_pieces_join_to_the_content(content: bytes) -> None:
    pieces = [bytes(piece) for piece in content_pieces(content)]
    assert b"".join(pieces) == content
    assert all(len(piece) >= content_borders._LEAST_BYTES for piece in pieces[:-1])


def test_a_word_put_in_changes_the_pieces_near_it_alone() -> None:
    content = os.urandom(1 << 20)
    before = {bytes(piece) for piece in content_pieces(content)}
    after = [bytes(piece) for piece in content_pieces(content[:500_000] + b"a longer template" + content[500_000:])]
    assert 30 < len(after) < 150
    assert sum(len(piece) for piece in after if piece not in before) < 200_000
