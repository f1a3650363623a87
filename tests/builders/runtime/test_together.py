"""Prompts continued together get the tokens of prompts alone, in llama.cpp and in onnxruntime, whatever came before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders.build import build
from builders.checkpoint import open_checkpoint
from builders.quantization.calibration.measure import measured_statistics, with_cache_ranges
from builders.runtime import together
from builders.runtime.session import Session
from builders.runtime.sessions import open_for_whole_context, open_session
from registry.bundle.folder import Bundle
from targets.errors import MeasurementError
from targets.kv_cache import with_kv_cache
from targets.recipes import recipe_named
from tests.support.cases import cases
from tests.support.checkpoints import write_tiny
from tests.support.mutants import SHAPES
from tests.support.parity import some_tokens, tiny_bundle

PROMPTS = [some_tokens(9 + 3 * length, seed=length) for length in range(5)]
COUNT = 12
RECIPES = ("gguf-f16", "onnx-fp16")


def alone(session: Session, prompts: list[np.ndarray] = PROMPTS, count: int = COUNT) -> list[list[int]]:
    return [tokens.tolist() for tokens in Session.continue_each(session, prompts, count)]


def at_once(session: Session, prompts: list[np.ndarray] = PROMPTS, **options: Any) -> list[list[int]]:
    return [tokens.tolist() for tokens in session.continue_each(prompts, COUNT, **options)]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    checkpoint = open_checkpoint(write_tiny(tmp_path_factory.mktemp("c") / "c", dtype="F16"))
    return {name: build(checkpoint, recipe_named(name), tmp_path_factory.mktemp(name) / "b") for name in RECIPES}


@pytest.mark.parametrize("recipe", RECIPES)
def test_together_is_alone(bundles: dict[str, Bundle], recipe: str) -> None:
    with open_session(bundles[recipe]) as session:
        expected = alone(session)
        assert at_once(session) == expected
        stops = {expected[0][0], expected[3][4]}  # rows end at different places
        ends = [next((at + 1 for at, token in enumerate(ids) if token in stops), COUNT) for ids in expected]
        assert at_once(session, stops=stops) == [ids[:end] for ids, end in zip(expected, ends, strict=True)]
        known = [np.array([ids[0], (ids[1] + at) % 300]) for at, ids in enumerate(expected)]
        assert [len(ids) for ids in at_once(session, known=known)] == [COUNT, 2, 2, 2, 2]
        assert at_once(session, []) == []
        assert np.array_equal(session.prefill(PROMPTS[2]), session.prefill(PROMPTS[2]))
        assert alone(session) == expected
        assert at_once(session, []) == []


@pytest.mark.parametrize("recipe", RECIPES)
def test_more_prompts_than_places_are_continued_in_groups(
    bundles: dict[str, Bundle], recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(together, "MOST_PLACES", 2)
    with open_session(bundles[recipe]) as session:
        assert at_once(session) == alone(session)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_prompt_that_goes_on_is_read_from_where_it_parts(bundles: dict[str, Bundle], recipe: str) -> None:
    with open_session(bundles[recipe]) as session:
        first = at_once(session)
        read: list[tuple[int, int]] = []
        held: Any = session._together  # type: ignore[attr-defined]
        places = held.places
        reads = places.read

        def overheard(place: int, tokens: np.ndarray, kept: int) -> np.ndarray:
            read.append((len(tokens), kept))
            return reads(place, tokens, kept)

        places.read = overheard
        longer = [np.array([*prompt, *ids[:4], (ids[4] + 1) % 300]) for prompt, ids in zip(PROMPTS, first, strict=True)]
        some = [longer[3], longer[1], some_tokens(7, seed=9), longer[4]]  # in another order, and with a new one
        found = at_once(session, some)
        assert read == [(len(each), 0 if len(each) == 7 else len(each) - 1) for each in some]
        assert found == alone(session, some)
        found = at_once(session)  # not one that goes on: read as if nothing had come before
        assert found == first


@pytest.mark.parametrize("recipe", RECIPES)
def test_shapes_of_all_families_are_continued_together(tmp_path: Path, recipe: str, shape: str) -> None:
    prompts = [some_tokens(length, seed=length) for length in (4, 30, 11)]
    with open_session(tiny_bundle(tmp_path, recipe, **SHAPES[shape])[1]) as session:
        assert at_once(session, prompts) == alone(session, prompts)
        near_edges = [some_tokens(length, seed=length) for length in (31, 41, 46)]  # answers cross some
        assert at_once(session, near_edges) == alone(session, near_edges)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "shape" in metafunc.fixturenames:
        recipe_free = {shape: shape for shape in SHAPES if not shape.startswith("phi3small")}
        metafunc.parametrize("shape", cases(recipe_free, {*recipe_free} - {"window", "longrope", "like Phi-4-mini"}))


def test_sparse_attention_is_continued_alone(tmp_path: Path) -> None:
    prompts = [some_tokens(length, seed=length) for length in (4, 30, 11)]
    with open_session(tiny_bundle(tmp_path, "onnx-fp16", **SHAPES["phi3small, longrope"])[1]) as session:
        assert at_once(session, prompts) == alone(session, prompts)


@pytest.mark.parametrize(("recipe", "cache"), [("gguf-f16", "q8_0"), ("onnx-fp16", "int8")])
def test_quantized_caches_are_kept_for_each(tmp_path: Path, recipe: str, cache: str) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path / "c", dtype="F16", hidden=128, heads=4, kv_heads=4))
    text, folder = some_tokens(48)[None], tmp_path / "cache"
    ranges = with_cache_ranges(measured_statistics(checkpoint, "light", text, folder), checkpoint, text, folder)
    kind = with_kv_cache(recipe_named(recipe), cache)
    bundle = build(checkpoint, kind, tmp_path / "b", context_length=128, statistics=ranges)
    with open_session(bundle) as session:
        assert at_once(session) == alone(session)


def test_a_context_opened_whole_keeps_its_factors(tmp_path: Path) -> None:
    """llama.cpp chooses longrope's factors by the context: shorter ones for several sequences would have others."""
    bundle = tiny_bundle(tmp_path, "gguf-f16", **SHAPES["longrope at 256"])[1]
    with open_for_whole_context(bundle) as session:
        assert at_once(session) == alone(session)
        assert session._together is None  # type: ignore[attr-defined]


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_token_that_is_not_in_the_vocabulary_is_refused(bundles: dict[str, Bundle], recipe: str) -> None:
    with open_session(bundles[recipe]) as session, pytest.raises(MeasurementError):
        at_once(session, [np.array([5, 6]), np.array([5, 100_000])])


def test_a_closed_session_says_so(bundles: dict[str, Bundle]) -> None:
    session = open_session(bundles["gguf-f16"])
    session.close()
    with pytest.raises(MeasurementError, match="closed"):
        at_once(session)


@pytest.mark.parametrize("recipe", ["onnx-fp16", "onnx-int4"])
def test_caches_of_any_element_fit_in_their_memory(
    tmp_path: Path, recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """onnx-int4 has caches in float32, twice as large as onnx-fp16's."""
    bundle = tiny_bundle(tmp_path, recipe)[1]
    model = bundle.manifest.model
    token = 2 * 2 * model.layers * model.kv_heads * model.head_dim  # in float16
    monkeypatch.setattr(together, "CACHE_BYTES", 5 * 256 * token)
    with open_session(bundle) as session:
        at_once(session)
        held: Any = session._together  # type: ignore[attr-defined]
        assert held.places.room == 256
        used = sum(cache.nbytes for cache in held.places._caches.values())
        assert used == (4 if recipe == "onnx-int4" else 5) * 256 * token


@pytest.mark.parametrize("bytes_per_token", [1, 1 << 20])
def test_places_fit_in_their_memory(bytes_per_token: int) -> None:
    places, room = together.places_for([some_tokens(10)] * 40, 256, bytes_per_token)
    assert room == 512
    assert places == (together.MOST_PLACES if bytes_per_token == 1 else together.CACHE_BYTES // (512 << 20))
    assert together.places_for([some_tokens(3)] * 2, 5, 1) == (2, 256)
