"""A bundle with a quantized KV cache in llama.cpp: opened as its manifest says, nearly as exact, and half as large."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import llama_cpp
import numpy as np
import pytest
from numpy.typing import NDArray

from builders.build import build
from builders.checkpoint import Checkpoint, open_checkpoint
from builders.runtime.generation import generate
from builders.runtime.gguf_session import GgufSession, open_session
from registry.bundle.folder import Bundle
from registry.bundle.requirements import check_requirements
from targets.errors import BundleError, MeasurementError, RecipeError
from targets.kv_cache import kv_cache_bytes, with_kv_cache
from targets.recipes import recipe_named
from tests.support.checkpoints import VOCABULARY_SIZE, write_tiny

TOKENS = np.random.default_rng(1).integers(0, VOCABULARY_SIZE, 256)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A model with heads of 32 values."""
    return open_checkpoint(write_tiny(tmp_path_factory.mktemp("kv") / "checkpoint", hidden=128))


def bundle_of(checkpoint: Checkpoint, folder: Path, cache: str) -> Bundle:
    return build(checkpoint, with_kv_cache(recipe_named("gguf-f16"), cache), folder / cache, context_length=256)


def mean_kl(expected: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    p, q = (one - np.logaddexp.reduce(one.astype(np.float64), -1, keepdims=True) for one in (expected, found))
    return float((np.exp(p) * (p - q)).sum(-1).mean())


def stored_bytes(session: GgufSession) -> int:
    """Return what llama.cpp itself says that keys and values of the sequence take, with some bytes a position."""
    return int(llama_cpp.llama_state_seq_get_size(session._context, 0))


def test_the_cache_has_the_type_of_the_manifest(checkpoint: Checkpoint, tmp_path: Path) -> None:
    logits: dict[str, NDArray[np.float32]] = {}
    for cache in ("f16", "q8_0", "q4_0"):
        bundle = bundle_of(checkpoint, tmp_path, cache)
        check_requirements(bundle)
        recipe = with_kv_cache(recipe_named("gguf-f16"), cache)
        with open_session(bundle) as session:
            logits[cache] = session.score(TOKENS)
            extra = stored_bytes(session) - kv_cache_bytes(checkpoint.architecture, recipe, len(TOKENS))
            assert 0 <= extra < 32 * len(TOKENS)
            first = session.prefill(TOKENS[:100])
            assert mean_kl(logits[cache][99], first) < 1e-5
            assert mean_kl(logits[cache][100], session.step(int(TOKENS[100]))) < 1e-3
    assert 1e-7 < mean_kl(logits["f16"], logits["q8_0"]) < 1e-4
    assert mean_kl(logits["f16"], logits["q8_0"]) * 20 < mean_kl(logits["f16"], logits["q4_0"]) < 0.1


def test_the_manifest_alone_differs(checkpoint: Checkpoint, tmp_path: Path) -> None:
    plain, quantized = bundle_of(checkpoint, tmp_path, "f16").manifest, bundle_of(checkpoint, tmp_path, "q8_0").manifest
    assert plain.digest != quantized.digest
    assert plain.files == quantized.files
    assert (plain.recipe.kv_cache, quantized.recipe.kv_cache) == ("", "q8_0")
    assert plain.requires is not None
    assert quantized.requires is not None
    assert set(quantized.requires.features) - set(plain.requires.features) == {"gguf/kv_cache/q8_0"}


def test_a_manifest_that_does_not_list_the_cache_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    plain, quantized = bundle_of(checkpoint, tmp_path, "f16"), bundle_of(checkpoint, tmp_path, "q8_0")
    changed = quantized.manifest.model_copy(update={"requires": plain.manifest.requires})
    with pytest.raises(BundleError, match="does not list gguf/kv_cache/q8_0"):
        check_requirements(replace(quantized, manifest=changed))


def test_generate_opens_it_too(checkpoint: Checkpoint, tmp_path: Path) -> None:
    assert list(generate(bundle_of(checkpoint, tmp_path, "q8_0"), "What?", max_new_tokens=4))


def test_a_type_of_a_later_phipack_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    bundle = bundle_of(checkpoint, tmp_path, "q8_0")
    entry = bundle.manifest.recipe.model_copy(update={"kv_cache": "q3_x"})
    later = replace(bundle, manifest=bundle.manifest.model_copy(update={"recipe": entry}))
    with pytest.raises(MeasurementError, match="asks for a KV cache in q3_x") as caught:
        open_session(later)
    assert caught.value.fix.startswith("update phipack")


def test_heads_of_16_values_are_refused_before_anything_is_written(tiny: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="heads of 16 values"):
        bundle_of(tiny, tmp_path, "q8_0")
    assert not (tmp_path / "q8_0").exists()
