"""Phi-3's real vocabulary: SentencePiece itself, what bundles of each format carry, and what llama.cpp makes of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from builders.build import build
from builders.checkpoint import open_checkpoint
from builders.runtime.generation import render_prompt
from builders.runtime.onnx_text import open_onnx_text
from builders.tokenizer import Tokenizer, load_tokenizer, read_bundled_tokenizer
from builders.validation.tokens import runtime_tokens_share
from devtools import phi3_vocabulary
from registry.bundle.folder import Bundle
from targets.recipes import recipe_named
from tests.support import llama_cpp as llamacpp
from tests.support.cases import examples
from tests.support.checkpoints import Tiny, random_weights, write_json, write_weights

RECIPES = ("gguf-q8_0", "onnx-int4", "coreml-int4")
STOP_IDS = [32000, 32001, 32007]
ADDED = ("<|user|>", "<|end|>", "<|assistant|>", "<|system|>", "<|endoftext|>", "<s>", "</s>", "<unk>")
# Characters that merge with nothing, with what precedes them, or with the space put before them; code; long runs.
PLAIN = st.one_of(
    st.text(max_size=12),
    st.text(st.characters(codec="utf-8", categories=("Zs", "Mn", "Cf", "So", "Lo")), max_size=4),
    st.sampled_from(["the", " an", "don't", "naïve", "код", "日本語", "👩🏽\u200d🚀", "e\u0301", "3.14", "=>"]),
    st.sampled_from([" ", "  ", "     ", "\n", "\n\n", "\r\n", "\t", "\u00a0"]),
    st.sampled_from(["def f(a):\n    return a + b\n", "我想在apple工作1314151天" * 8, "x" * 120]),
).filter(lambda text: text.encode("utf-8", "ignore").decode() == text)
TEXTS = st.lists(PLAIN, max_size=8).map("".join)
WITH_ADDED = st.lists(st.one_of(PLAIN, st.sampled_from(ADDED)), max_size=10).map("".join)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Phi-3 with the real vocabulary; no tokenizer.json."""
    place = tmp_path_factory.mktemp("phi3") / "checkpoint"
    place.mkdir()
    config = Tiny().config() | {"vocab_size": 32064, "bos_token_id": 1, "eos_token_id": 32000, "pad_token_id": 32000}
    write_json(place / "config.json", config)
    write_json(place / "generation_config.json", {"eos_token_id": STOP_IDS})
    write_weights(place, random_weights(config))
    vocabulary = phi3_vocabulary.ensure()
    (place / "tokenizer.model").write_bytes((vocabulary / "tokenizer.model").read_bytes())
    # Phi-3's own tokenizer.json puts a space before each stretch of text: for tokenizer.model alone that is "legacy".
    config = json.loads((vocabulary / "tokenizer_config.json").read_bytes()) | {"legacy": True}
    write_json(place / "tokenizer_config.json", config)
    return place


@pytest.fixture(scope="module")
def original(folder: Path) -> Tokenizer:
    return load_tokenizer(folder)


@pytest.fixture(scope="module")
def bundles(folder: Path) -> dict[str, Bundle]:
    checkpoint = open_checkpoint(folder)
    return {name: build(checkpoint, recipe_named(name), folder.parent / name) for name in RECIPES}


@pytest.fixture(scope="module")
def in_llama_cpp(bundles: dict[str, Bundle]) -> Iterator[Any]:
    with llamacpp.vocabulary(bundles["gguf-q8_0"].file("model.gguf")) as vocabulary:
        yield vocabulary


@pytest.fixture(scope="module")
def pieces() -> Any:
    return sentencepiece.SentencePieceProcessor(str(phi3_vocabulary.ensure() / "tokenizer.model"))


@settings(max_examples=examples(400), deadline=None)
@given(text=TEXTS)
def test_ids_and_text_are_sentencepieces_own(original: Tokenizer, pieces: Any, text: str) -> None:
    ids = original.encode(text)
    assert ids == pieces.encode(text)
    assert original.decode(ids) == pieces.decode(ids)


def test_known_texts_have_their_known_ids(original: Tokenizer, in_llama_cpp: Any) -> None:
    known = phi3_vocabulary.vectors(phi3_vocabulary.ensure())
    assert len(known) == 46
    for text, ids in known:
        assert original.encode(text) == ids
        assert in_llama_cpp.encode(text) == ids


@pytest.mark.parametrize("recipe", RECIPES)
def test_bundles_of_every_format_carry_the_same_tokenizer(
    bundles: dict[str, Bundle], original: Tokenizer, recipe: str
) -> None:
    carried = read_bundled_tokenizer(bundles[recipe].path)

    @settings(max_examples=examples(150), deadline=None)
    @given(text=WITH_ADDED)
    def same(text: str) -> None:
        ids = original.encode(text, add_special_tokens=True)
        assert carried.encode(text, add_special_tokens=True) == ids
        assert carried.decode(ids) == original.decode(ids)

    same()


# After a special token llama.cpp drops ASCII white space, tokenizers Unicode's.
@settings(max_examples=examples(400), deadline=None)
@given(text=WITH_ADDED.filter(lambda text: not any(c.isspace() and c not in " \t\r\n" for c in text)))
def test_llama_cpp_reads_the_same_ids_from_the_gguf_file(original: Tokenizer, in_llama_cpp: Any, text: str) -> None:
    assert in_llama_cpp.encode(text) == original.encode(text)
    assert in_llama_cpp.encode(text, add_special=True) == original.encode(text, add_special_tokens=True)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_chat_is_written_as_transformers_writes_it(folder: Path, bundles: dict[str, Bundle], recipe: str) -> None:
    import transformers

    theirs = transformers.AutoTokenizer.from_pretrained(folder, use_fast=True)
    for prompt in ("Why is the sky blue?", "  two\n\nlines \u2028", "{{ 7 * 7 }} <|end|>", ""):
        messages = [{"role": "user", "content": prompt}]
        expected = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert render_prompt(bundles[recipe], prompt) == expected
    assert bundles[recipe].manifest.generation.stop_token_ids == STOP_IDS


def test_onnxruntime_genai_reads_a_chat_as_it_is(bundles: dict[str, Bundle], original: Tokenizer) -> None:
    bundle = bundles["onnx-int4"]
    with open_onnx_text(bundle) as engine:
        for prompt in ("Why is the sky blue?", "Übersetze: The quick brown fox.\nAnd then?", "日本語で答えて 🙂"):
            text = render_prompt(bundle, prompt)
            assert engine.encode(text) == original.encode(text)
    assert json.loads(bundle.file("genai_config.json").read_bytes())["model"]["eos_token_id"] == STOP_IDS


def test_where_a_runtime_splits_otherwise_is_measured_and_noted(
    bundles: dict[str, Bundle], original: Tokenizer
) -> None:
    text = "The quick brown fox.\n" * 3 + "\u00a0x"
    shares = {name: runtime_tokens_share(bundles[name], original, text) for name in RECIPES}
    assert shares == {"gguf-q8_0": 0.875, "onnx-int4": 0.75, "coreml-int4": None}
    notes = {name: " ".join(bundles[name].manifest.recipe.notes) for name in RECIPES}
    assert {name for name in RECIPES if "runtime_tokens_share" in notes[name]} == {"onnx-int4"}
