"""Borders set by content: the same content is cut alike, wherever it lies and however it is read."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builders.artifact import content_borders as module
from builders.artifact.content_borders import WHOLE_FILE_BYTES, content_borders, content_digests
from registry.bundle.chunks import digest_in_chunks

anywhere = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
contents = st.tuples(st.integers(0, 999), st.integers(0, 3000)).map(
    lambda drawn: np.random.default_rng(drawn[0]).bytes(drawn[1])
)


@pytest.fixture
def dense(monkeypatch: pytest.MonkeyPatch) -> None:
    """A border in 64 bytes, and none in 16."""
    monkeypatch.setattr(module, "_MASK", np.uint32(((1 << 6) - 1) << 26))
    monkeypatch.setattr(module, "_LEAST_BYTES", 16)


@anywhere
@given(content=contents, block=st.integers(1, 200))
def test_it_does_not_matter_how_much_is_hashed_at_once(
    dense: None, monkeypatch: pytest.MonkeyPatch, content: bytes, block: int
) -> None:
    monkeypatch.setattr(module, "_BLOCK", 1 << 20)
    at_once = list(content_borders(content))
    monkeypatch.setattr(module, "_BLOCK", block)
    assert list(content_borders(content)) == at_once
    assert sorted(set(at_once)) == at_once
    assert len(content) < 600 or at_once


@anywhere
@given(before=contents, other=contents, content=contents)
def test_the_same_content_is_cut_alike_behind_anything(
    dense: None, before: bytes, other: bytes, content: bytes
) -> None:
    one, another = (
        {border - len(head) for border in content_borders(head + content) if border >= len(head) + 32}
        for head in (before, other)
    )
    common = one & another
    if common:
        first = min(common)
        assert {border for border in one if border >= first} == {border for border in another if border >= first}
    assert common or len(content) < 2000


def test_files_that_are_not_small_are_cut_and_hashed(tmp_path: Path) -> None:
    raw = {"folder/large": os.urandom(300_000), "small": os.urandom(WHOLE_FILE_BYTES - 1), "known": os.urandom(200_000)}
    for name, content in raw.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    found = content_digests(tmp_path, {"known"})
    assert list(found) == ["folder/large"]
    digest = found["folder/large"]
    assert digest.sha256 == hashlib.sha256(raw["folder/large"]).hexdigest()
    assert 5 < len(digest.chunks) < 60
    assert digest == digest_in_chunks(tmp_path / "folder/large", content_borders(raw["folder/large"]))
    assert content_digests(tmp_path, {"known"}) == found
