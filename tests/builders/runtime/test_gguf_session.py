"""A bundle in llama.cpp against transformers' own Phi-3 in float32, and the laws of a session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from builders.build import build
from builders.checkpoint import open_checkpoint
from builders.runtime.gguf_session import GgufSession, open_session
from registry.bundle.folder import Bundle
from targets.errors import MeasurementError, UnsupportedModelError
from targets.recipes import recipe_named
from tests.support.checkpoints import VOCABULARY_SIZE, write_tiny
from tests.support.parity import LIKE_PHI_4_MINI
from tests.support.transformers_models import transformers_logits

TOKENS = np.random.default_rng(1).integers(0, VOCABULARY_SIZE, 700)
# Of the logits' own spread: F16 weights and KV cache against float32.
F16_TOLERANCE = 0.02
F16_KL = 1e-5


def bundle_of(folder: Path, recipe: str = "gguf-f16", context: int | None = None) -> Bundle:
    out = folder.parent / f"{folder.name}-{recipe}-{context}"
    return build(open_checkpoint(folder), recipe_named(recipe), out, context_length=context)


def mean_kl(expected: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
        shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))

    p, q = log_softmax(expected), log_softmax(found)
    return float((np.exp(p) * (p - q)).sum(-1).mean())


SHAPES = {
    "grouped heads": {},
    "tied": {"tied": True},
    "as many KV heads": {"kv_heads": 4},
    "longrope below its edge": {"original_context": 256, "context": 1024},
    "half of a head rotated": {"rotated": 0.5},
    "like Phi-4-mini": LIKE_PHI_4_MINI | {"original_context": 256, "context": 1024},
    "llama": {"family": "llama"},
    "llama, heads wider than the hidden size": {"family": "llama", "head_dim": 32},
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_f16_answers_like_the_checkpoint_in_float32(shape: str, dtype: str, tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "checkpoint", dtype=dtype, **SHAPES[shape])
    expected = transformers_logits(folder, TOKENS[:120])
    with open_session(bundle_of(folder, context=256)) as session:
        found = session.score(TOKENS[:120])
    assert found.shape == expected.shape
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < F16_TOLERANCE * expected.std()
    assert mean_kl(expected, found) < F16_KL
    assert mean_kl(expected, found[:, ::-1]) > 1000 * F16_KL  # the bound can fail


@pytest.mark.parametrize("shape", [{}, LIKE_PHI_4_MINI], ids=["mini", "Phi-4-mini"])
def test_longrope_is_exact_on_both_sides_of_its_edge_opened_as_the_manifest_says(
    shape: dict[str, Any], tmp_path: Path
) -> None:
    folder = write_tiny(tmp_path / "checkpoint", original_context=256, context=1024, **shape)
    bundle = bundle_of(folder, context=512)
    assert [entry.model_dump() for entry in bundle.manifest.model.exact_contexts] == [
        {"open_with": 256, "first": 1, "last": 256},
        {"open_with": 512, "first": 257, "last": 512},
    ]
    assert any("open it with 256 for sequences of 1 to 256" in note for note in bundle.manifest.recipe.notes)
    with open_session(bundle) as session:
        for length in (300, 100, 256, 257):
            expected = transformers_logits(folder, TOKENS[:length])
            assert mean_kl(expected, session.score(TOKENS[:length])) < F16_KL, f"{length} tokens"
    with open_session(bundle, context_length=512) as session:  # what the other context costs
        assert mean_kl(transformers_logits(folder, TOKENS[:100]), session.score(TOKENS[:100])) > 100 * F16_KL


def test_a_sequence_that_grows_past_the_edge_answers_like_the_checkpoint(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "checkpoint", original_context=256, context=1024)
    with open_session(bundle_of(folder, context=512)) as session:
        session.prefill(TOKENS[:254])
        for count in range(255, 260):
            logits = session.step(int(TOKENS[count - 1]))
            expected = transformers_logits(folder, TOKENS[:count])[-1:]
            assert mean_kl(expected, logits[None]) < F16_KL, f"{count} tokens"


def test_below_the_edge_there_is_nothing_to_say(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "checkpoint", original_context=256, context=1024)
    manifest = bundle_of(folder, context=200).manifest
    assert (manifest.recipe.notes, manifest.model.exact_contexts) == ([], [])
    assert b"exact_contexts" not in manifest.to_bytes()


def test_a_context_that_llama_cpp_rounds_past_the_edge_is_noted(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "checkpoint", original_context=300, context=1024)
    bundle = bundle_of(folder, context=260)
    assert bundle.manifest.model.exact_context_length == 256
    assert any("open it with 256 for sequences of 1 to 256" in note for note in bundle.manifest.recipe.notes)
    with open_session(bundle) as session:
        assert session.score(TOKENS[:260]).shape == (260, VOCABULARY_SIZE)  # taken, if not exactly


def test_a_gap_between_the_contexts_ends_what_is_exact(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "checkpoint", original_context=300, context=1024)
    bundle = bundle_of(folder, context=512)
    assert bundle.manifest.model.exact_context_length == 256
    with open_session(bundle) as session:
        assert mean_kl(transformers_logits(folder, TOKENS[:280]), session.score(TOKENS[:280])) > 100 * F16_KL


@pytest.mark.parametrize("changes", [{}, {"tied": True, "kv_heads": 4}, {"heads": 8, "kv_heads": 2}])
def test_llama_in_f16_answers_like_transformers(changes: dict[str, Any], tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "checkpoint", family="llama", dtype="F16", **changes)
    expected = transformers_logits(folder, TOKENS[:120])
    with open_session(bundle_of(folder, context=256)) as session:
        found = session.score(TOKENS[:120])
    assert np.abs(found - expected).max() < F16_TOLERANCE * expected.std()
    assert mean_kl(expected, found) < F16_KL


def test_phi_3_small_is_refused_with_what_to_take_instead(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "checkpoint", family="phi3small")
    with pytest.raises(UnsupportedModelError, match=r"llama\.cpp has no graph for Phi-3-small") as refused:
        bundle_of(folder)
    assert (
        refused.value.fix == "use one of onnx-fp16, onnx-int8, onnx-int4, coreml-fp16, coreml-int4, coreml-palettized4"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_the_window_is_exact_as_far_as_the_manifest_says(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "checkpoint", window=64)
    bundle = bundle_of(folder)
    exact = bundle.manifest.model.exact_context_length
    assert exact == 64
    with open_session(bundle) as session:
        found, expected = session.score(TOKENS[:128]), transformers_logits(folder, TOKENS[:128])
    assert mean_kl(expected[:exact], found[:exact]) < F16_KL
    assert mean_kl(expected[exact:], found[exact:]) > 10 * F16_KL


@pytest.fixture(scope="module", params=["gguf-f16", "gguf-q4_k_m"])
def session(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GgufSession]:
    folder = write_tiny(tmp_path_factory.mktemp("session") / "checkpoint", context=700)
    with open_session(bundle_of(folder, request.param)) as opened:
        yield opened


@pytest.mark.parametrize("length", [1, 2, 511, 512, 513, 700])
def test_the_laws_of_a_session(session: GgufSession, length: int) -> None:
    tokens = TOKENS[:length]
    scored = session.score(tokens)
    assert scored.shape == (length, VOCABULARY_SIZE)
    np.testing.assert_allclose(session.prefill(tokens), scored[-1], atol=2e-2)
    if length > 1:
        session.prefill(tokens[:-1])
        np.testing.assert_allclose(session.step(int(tokens[-1])), scored[-1], atol=2e-2)
    assert np.array_equal(session.score(tokens), scored)  # from an empty cache whatever came before


def test_logits_given_stay_as_they_were(session: GgufSession) -> None:
    first = session.prefill(TOKENS[:5])
    kept = first.copy()
    session.step(7)
    assert np.array_equal(first, kept)


def test_what_does_not_fit_is_refused(session: GgufSession) -> None:
    with pytest.raises(MeasurementError, match="701 tokens don't fit in the bundle's context of 700"):
        session.score(np.zeros(701, dtype=np.int64))
    session.prefill(TOKENS[:700])
    with pytest.raises(MeasurementError, match="701 tokens don't fit"):
        session.step(1)
    with pytest.raises(MeasurementError, match="no tokens"):
        session.prefill(TOKENS[:0])
    for token in (-1, VOCABULARY_SIZE):
        with pytest.raises(MeasurementError, match="not in the vocabulary"):
            session.score(np.array([1, token]))
    session.score(TOKENS[:3])
    with pytest.raises(MeasurementError, match="call prefill first"):
        session.step(1)


def test_a_closed_session_says_so(tiny_folder: Path, tmp_path: Path) -> None:
    bundle = build(open_checkpoint(tiny_folder), recipe_named("gguf-q8_0"), tmp_path / "bundle")
    opened = open_session(bundle)
    opened.close()
    opened.close()
    with pytest.raises(MeasurementError, match="closed"):
        opened.score(TOKENS[:2])
    with pytest.raises(MeasurementError):
        opened.step(1)


def test_llama_cpp_is_silent_and_its_refusal_is_an_error(
    tiny_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bundle = build(open_checkpoint(tiny_folder), recipe_named("gguf-q8_0"), tmp_path / "bundle")
    with open_session(bundle) as opened:
        opened.score(TOKENS[:4])
    file = bundle.file("model.gguf")
    whole = file.read_bytes()
    for damaged in (b"", whole[:100], whole[: len(whole) // 2], b"GGUX" + whole[4:]):
        file.write_bytes(damaged)
        with pytest.raises(MeasurementError, match=r"model\.gguf: llama\.cpp refuses it: \S+"):
            open_session(bundle)
    file.unlink()
    with pytest.raises(MeasurementError, match=r"model\.gguf"):
        open_session(bundle)
    assert capfd.readouterr() == ("", "")


def test_a_file_of_another_model_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    bundle = build(open_checkpoint(tiny_folder), recipe_named("gguf-q8_0"), tmp_path / "bundle")
    model = bundle.manifest.model.model_copy(update={"vocabulary_size": 4096})
    lying = Bundle(bundle.path, bundle.manifest.model_copy(update={"model": model}))
    with pytest.raises(MeasurementError, match="320 tokens, the manifest says 4096"):
        open_session(lying)
