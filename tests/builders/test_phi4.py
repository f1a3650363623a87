"""Phi-4-mini and Phi-4 from checkpoint to answer: tokenizer, chat template, logits, by transformers and runtimes."""

from __future__ import annotations

import json
import shutil
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders.build import build
from builders.checkpoint import Checkpoint, open_checkpoint
from builders.gguf.tokenizer import read_tokenizer
from builders.gguf.vocabulary import Vocabulary
from builders.onnx.tokenizer_notes import REWRITES_TOOLS
from builders.runtime.generation import generate, render_prompt
from builders.runtime.gguf_tokenizer import open_gguf_text
from builders.runtime.onnx_text import open_onnx_text
from builders.runtime.sessions import open_session
from builders.templates.conversations import HARD_TOOLS
from builders.tokenizer import Tokenizer, load_tokenizer, read_bundled_tokenizer, stop_token_ids
from devtools.phi4_tokenizer import RELEASED
from registry.bundle.folder import Bundle
from targets.errors import UnsupportedModelError
from targets.recipes import recipe_named
from tests.support.cases import examples
from tests.support.checkpoints import write_json
from tests.support.llama_cpp import metadata
from tests.support.phi4 import write_phi_4, write_phi_4_mini
from tests.support.texts import WORDS
from tests.support.transformers_models import transformers_logits

RECIPES = ("gguf-f16", "onnx-fp16", "coreml-fp16")
TOLERANCE = 0.03
MODELS = {"phi-4-mini": write_phi_4_mini, "phi-4": write_phi_4}
SAID = [
    "Hello, can you",
    " call tools?",
    "1234567",
    "don't I'LL",
    "camelCase HTTPServer",
    "a/b\n/\n",
    "\u00dcBER",
    "e\u0301t",
]
# What llama.cpp's spelling of o200k splits elsewhere, as the manifest's note says.
OTHER_IN_LLAMA_CPP = (" \u0915\u0947", " \u0939\u0948")  # tokens of Hindi, among the first


@dataclass(frozen=True, repr=False)
class Model:
    checkpoint: Checkpoint
    bundles: dict[str, Bundle]
    tokenizer: Tokenizer
    special: list[str]


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A tiny checkpoint, and a bundle of it in each format."""
    write = MODELS[request.param]
    home = tmp_path_factory.mktemp("phi4")
    checkpoint = open_checkpoint(write(home / "checkpoint", dtype="F16"))
    bundles = {name: build(checkpoint, recipe_named(name), home / name, context_length=512) for name in RECIPES}
    return Model(checkpoint, bundles, load_tokenizer(checkpoint.path), list(RELEASED[request.param].tokens))


@pytest.fixture(scope="module")
def theirs(model: Model) -> Any:
    """transformers' own tokenizer of the folder."""
    import transformers

    return transformers.AutoTokenizer.from_pretrained(model.checkpoint.path)


def texts(special: list[str]) -> st.SearchStrategy[str]:
    plain = WORDS.filter(lambda word: not word.startswith("<|"))
    words = st.one_of(
        plain,
        st.sampled_from(SAID),
        st.sampled_from(OTHER_IN_LLAMA_CPP),
        *([st.sampled_from(special)] if special else []),
    )
    return st.lists(words, max_size=10).map("".join)


@settings(max_examples=examples(150))
@given(data=st.data())
def test_ids_are_those_of_transformers(model: Model, theirs: Any, data: st.DataObject) -> None:
    text = data.draw(texts(model.special))
    expected = theirs.encode(text)
    assert model.tokenizer.encode(text, add_special_tokens=True) == expected
    for bundle in model.bundles.values():
        assert read_bundled_tokenizer(bundle.path).encode(text, add_special_tokens=True) == expected


def test_special_tokens_have_their_ids(model: Model) -> None:
    ids = {token: model.tokenizer.encode(token) for token in model.special}
    assert all(len(found) == 1 for found in ids.values())
    assert stop_token_ids(model.checkpoint) == tuple(
        found for token, (found,) in ids.items() if token in ("<|endoftext|>", "<|end|>", "<|im_end|>")
    )
    for bundle in model.bundles.values():
        assert tuple(bundle.manifest.generation.stop_token_ids) == stop_token_ids(model.checkpoint)


@settings(max_examples=examples(150))
@given(data=st.data())
def test_llama_cpp_splits_text_as_noted(model: Model, data: st.DataObject) -> None:
    """Special tokens, which swallow white space in these models and not in llama.cpp, are left out."""
    text = data.draw(texts([]))
    if _is_phi_4_mini(model):
        text = "".join(character for character in text if not _is_split_elsewhere(character))
    with open_gguf_text(model.bundles["gguf-f16"]) as engine:
        assert engine.encode(text) == model.tokenizer.encode(text)


def test_where_llama_cpp_differs_is_noted(model: Model) -> None:
    bundle = model.bundles["gguf-f16"]
    with open_gguf_text(bundle) as engine:
        differ = [text for text in OTHER_IN_LLAMA_CPP if engine.encode(text) != model.tokenizer.encode(text)]
        white_space = "<|user|> the" if _is_phi_4_mini(model) else "<|im_sep|> the"
        assert engine.encode(white_space) != model.tokenizer.encode(white_space)
    notes = bundle.manifest.recipe.notes
    assert any("whitespace around them" in note for note in notes)
    assert any("combining marks" in note for note in notes) == _is_phi_4_mini(model)
    assert differ == (list(OTHER_IN_LLAMA_CPP) if _is_phi_4_mini(model) else [])
    assert metadata(bundle.file("model.gguf"))["tokenizer.ggml.pre"] == ("gpt-4o" if _is_phi_4_mini(model) else "dbrx")


def test_a_conversation_is_written_as_transformers_writes_it(model: Model, theirs: Any) -> None:
    expected = theirs.apply_chat_template(
        [{"role": "user", "content": "Grüße <b>"}], tokenize=False, add_generation_prompt=True
    )
    for bundle in model.bundles.values():
        assert render_prompt(bundle, "Grüße <b>") == expected
    assert metadata(model.bundles["gguf-f16"].file("model.gguf"))["tokenizer.chat_template"] == theirs.chat_template


def test_tools_are_written_as_transformers_writes_them(model: Model, theirs: Any) -> None:
    """By onnxruntime-genai, which renders the bundle's template in apps."""
    import onnxruntime_genai as genai

    tools = json.dumps([{"name": "weather", "description": "The weather", "parameters": {"city": {"type": "str"}}}])
    messages = [{"role": "system", "content": "Help.", "tools": tools}, {"role": "user", "content": "Hello"}]
    expected = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert (f"<|tool|>{tools}<|/tool|>" in expected) == _is_phi_4_mini(model)
    bundle = model.bundles["onnx-fp16"]
    tokenizer = genai.Tokenizer(genai.Config(str(bundle.path)))
    written = tokenizer.apply_chat_template(json.dumps(messages), add_generation_prompt=True)
    assert written == expected
    assert read_bundled_tokenizer(bundle.path).encode(written) == theirs.encode(expected)


def test_tools_that_onnxruntime_genai_rewrites_are_noted(model: Model, theirs: Any) -> None:
    """A list, true and a quote: its text is no JSON any more. Where a later one writes it as it is, the note goes."""
    messages = [{"role": "system", "content": "Help.", "tools": HARD_TOOLS}, {"role": "user", "content": "Hello"}]
    expected = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert (HARD_TOOLS in expected) == _is_phi_4_mini(model)
    with open_onnx_text(model.bundles["onnx-fp16"]) as engine:
        written = engine.render(messages, None, add_generation_prompt=True)
    assert (written == expected) != _is_phi_4_mini(model)
    notes = [one for one in model.bundles["onnx-fp16"].manifest.recipe.notes if one.startswith(REWRITES_TOOLS)]
    assert len(notes) == _is_phi_4_mini(model)
    if _is_phi_4_mini(model):
        assert written is not None
        with pytest.raises(json.JSONDecodeError):
            json.loads(written.partition("<|tool|>")[2].partition("<|/tool|>")[0])
    assert not any(one.startswith(REWRITES_TOOLS) for one in model.bundles["gguf-f16"].manifest.recipe.notes)


@settings(max_examples=examples(150))
@given(data=st.data())
def test_onnxruntime_genai_splits_text_alike(model: Model, data: st.DataObject) -> None:
    text = data.draw(texts([]))
    with open_onnx_text(model.bundles["onnx-fp16"]) as engine:
        assert engine.encode(text) == model.tokenizer.encode(text)


@pytest.mark.parametrize("length", [40, pytest.param(256, marks=pytest.mark.every_case), 257])
@pytest.mark.parametrize("recipe", RECIPES)
def test_logits_are_those_of_transformers(model: Model, recipe: str, length: int) -> None:
    tokens = np.random.default_rng(3).integers(0, model.checkpoint.architecture.vocabulary_size, length)
    expected = transformers_logits(model.checkpoint.path, tokens)
    with open_session(model.bundles[recipe]) as session:
        assert np.abs(session.score(tokens) - expected).max() < TOLERANCE


@pytest.mark.parametrize("recipe", RECIPES)
def test_it_answers(model: Model, recipe: str) -> None:
    assert "".join(generate(model.bundles[recipe], "Hello", max_new_tokens=3))


@pytest.mark.parametrize("whole_words", [False, True])
def test_whole_words_make_no_difference_where_merges_form_them(model: Model, tmp_path: Path, whole_words: bool) -> None:
    name = _vocabulary(model, tmp_path / "c", whole_words=whole_words, merges=True).pre
    assert name == ("gpt-4o" if _is_phi_4_mini(model) else "llama-bpe" if whole_words else "dbrx")


def test_whole_words_that_merges_do_not_form_need_another_name(model: Model, tmp_path: Path) -> None:
    if _is_phi_4_mini(model):  # llama.cpp has o200k without whole words only
        with pytest.raises(UnsupportedModelError, match="is a token that merges don't form"):
            _vocabulary(model, tmp_path / "c", whole_words=True, merges=False)
    else:
        assert _vocabulary(model, tmp_path / "c", whole_words=True, merges=False).pre == "llama-bpe"


def _vocabulary(model: Model, folder: Path, *, whole_words: bool, merges: bool) -> Vocabulary:
    """The vocabulary for llama.cpp of a tokenizer with or without all merges."""
    shutil.copytree(model.checkpoint.path, folder)
    content = json.loads((folder / "tokenizer.json").read_bytes())
    content["model"]["ignore_merges"] = whole_words
    if not merges:
        content["model"]["merges"].pop()
    write_json(folder / "tokenizer.json", content)
    return read_tokenizer(open_checkpoint(folder)).vocabulary


def _is_phi_4_mini(model: Model) -> bool:
    return model.checkpoint.architecture.rotary_dim < model.checkpoint.architecture.head_dim


def _is_split_elsewhere(character: str) -> bool:
    kind = unicodedata.category(character)
    return kind.startswith("M") or (kind in ("Lu", "Lt") and not character.isascii())
