"""The end of a long sequence, scored part by part: the rows of the whole, and never all of them in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders.runtime import session as sessions
from builders.runtime.isolation import open_isolated
from builders.runtime.session import parts_from
from builders.runtime.sessions import open_session
from registry.bundle.folder import Bundle
from targets.errors import MeasurementError
from tests.support.cases import cases
from tests.support.mutants import SHAPES
from tests.support.parity import some_tokens, tiny_bundle

TOKENS = some_tokens(45)
RECIPES = ("gguf-f16", "onnx-fp16", "coreml-fp16")


def test_parts_end_where_a_reader_from_the_start_ends_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "PART_TOKENS", 8)
    assert parts_from(0, 20) == [(0, 8), (8, 16), (16, 20)]
    assert parts_from(9, 20) == parts_from(15, 20) == [(8, 16), (16, 20)]
    assert parts_from(16, 20) == [(16, 20)]
    assert parts_from(0, 0) == []


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("first", [0, 13, 44])
def test_parts_are_the_rows_of_the_whole(
    tmp_path: Path, recipe: str, first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "PART_TOKENS", 8)
    with open_session(tiny_bundle(tmp_path, recipe)[1]) as session:
        whole = session.score(TOKENS)
        parts = list(session.score_end(TOKENS, first))
        assert [len(part) for part in parts] == [stop - max(first, at) for at, stop in parts_from(first, len(TOKENS))]
        np.testing.assert_allclose(np.concatenate(parts), whole[first:], atol=0.02)
        assert np.array_equal(session.score(TOKENS), whole)


@pytest.mark.parametrize("recipe", RECIPES)
def test_no_more_than_a_part_is_read_at_once(tmp_path: Path, recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "PART_TOKENS", 8)
    read: list[int] = []
    with open_session(tiny_bundle(tmp_path, recipe)[1]) as session:
        name = {"gguf-f16": "_decode", "onnx-fp16": "_run", "coreml-fp16": "_extended"}[recipe]
        inner = getattr(session, name)

        def counted(tokens: np.ndarray, **options: Any) -> np.ndarray:
            read.append(len(tokens))
            found: np.ndarray = inner(tokens, **options)
            return found

        monkeypatch.setattr(session, name, counted)
        list(session.score_end(TOKENS, 30))
    assert read == [8, 8, 8, 8, 8, 5]


@pytest.mark.parametrize("recipe", RECIPES[1:])
@pytest.mark.parametrize("shape", cases({name: name for name in SHAPES}, ["longrope", "window"]))
def test_shapes_of_all_families_are_scored_alike(
    tmp_path: Path, recipe: str, shape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With longrope a sequence past the edge has other factors throughout: it is read at once."""
    monkeypatch.setattr(sessions, "PART_TOKENS", 8)
    with open_session(tiny_bundle(tmp_path, recipe, **SHAPES[shape])[1]) as session:
        for tokens in (TOKENS[:20], TOKENS):
            found = np.concatenate(list(session.score_end(tokens, 3)))
            np.testing.assert_allclose(found, session.score(tokens)[3:], atol=0.05)


def test_another_process_sends_the_same_parts(bundle: Bundle) -> None:
    tokens = np.arange(5, 305)
    with open_session(bundle) as here, open_isolated(bundle) as there:
        for near, far in zip(here.score_end(tokens, 7), there.score_end(tokens, 7), strict=True):
            assert np.array_equal(near, far)
        with pytest.raises(MeasurementError, match="512"):
            list(there.score_end(np.full(600, 5), 590))
        assert there.prefill(tokens[:9]).shape == (320,)
