"""Ids and texts of every kind of folder are those of `AutoTokenizer`: in the reference, in bundles, in llama.cpp."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import transformers

from builders.build import build
from builders.checkpoint import open_checkpoint
from builders.tokenizer import Tokenizer, bundled_tokenizer, load_tokenizer
from targets.recipes import recipe_named
from tests.support import llama_cpp as llamacpp
from tests.support.tokenizer_folders import FOLDERS, write_folder

CHAT = "<|user|>\nIs the town in the house?<|end|>\n<|assistant|>\n"
PLAIN = "then there is the town in the house and the naïve town"
TEXTS = (
    CHAT,
    PLAIN,
    "",
    " ",
    "  the  town ",
    "Hello , world . don't",
    "a</s>  b<s> <unk>c <|endoftext|> d",
    "<|system|> \n the<|end|>\u00a0x\n\n  <|user|>",
    "naïve 数 👩🏽\u200d🚀\t\r\n",
    "▁the <0x41>",
)


@dataclass(frozen=True)
class Case:
    name: str
    folder: Path
    theirs: Any
    ours: Tokenizer


@pytest.fixture(scope="module", params=FOLDERS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = write_folder(tmp_path_factory.mktemp("parity") / "checkpoint", request.param)
    theirs = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    return Case(request.param, folder, theirs, load_tokenizer(folder))


@pytest.mark.parametrize("add_special_tokens", [True, False])
def test_ids_and_texts_are_transformers_own(case: Case, add_special_tokens: bool) -> None:
    for text in TEXTS:
        ids = case.theirs.encode(text, add_special_tokens=add_special_tokens)
        assert case.ours.encode(text, add_special_tokens=add_special_tokens) == ids, text
        assert case.ours.decode(ids) == case.theirs.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
    assert case.ours.special_tokens == case.theirs.special_tokens_map
    assert case.ours.vocabulary() == case.theirs.get_vocab()


def test_what_is_bundled_needs_no_other_file(case: Case) -> None:
    content = bundled_tokenizer(open_checkpoint(case.folder), "coreml").files["tokenizer.json"]
    carried = tokenizers.Tokenizer.from_str(content.decode())
    assert (carried.truncation, carried.padding) == (None, None)
    for text in TEXTS:
        assert carried.encode(text).ids == case.theirs.encode(text)


def test_llama_cpp_has_the_same_ids(case: Case, tmp_path: Path) -> None:
    bundle = build(open_checkpoint(case.folder), recipe_named("gguf-q8_0"), tmp_path / "bundle")
    noted = any("tokenize" in note for note in bundle.manifest.recipe.notes)
    with llamacpp.vocabulary(bundle.file("model.gguf")) as vocabulary:
        assert vocabulary.encode(CHAT) == case.theirs.encode(CHAT, add_special_tokens=False)
        same = [
            vocabulary.encode(text, add_special=True) == case.theirs.encode(text)
            for text in TEXTS
            if "\u00a0" not in text
        ]
    assert all(same) or noted


def test_cut_texts_are_whole(tmp_path: Path) -> None:
    """transformers resets a truncation that is saved in tokenizer.json; the library alone obeys it."""
    folder = write_folder(tmp_path / "checkpoint", "bytes, truncation and padding")
    raw = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert len(raw.encode(PLAIN).ids) == 64  # cut to 8, then padded
    assert len(load_tokenizer(folder).encode(PLAIN)) > 19


@pytest.mark.parametrize("name", ["pieces", "pieces, as released", "bytes", "bytes, BOS by post-processor"])
def test_onnxruntime_genai_has_the_same_ids(tmp_path: Path, name: str) -> None:
    from builders.runtime.onnx_text import open_onnx_text

    folder = write_folder(tmp_path / "checkpoint", name)
    theirs: Callable[..., list[int]] = transformers.AutoTokenizer.from_pretrained(folder).encode
    bundle = build(open_checkpoint(folder), recipe_named("onnx-int4"), tmp_path / "bundle")
    with open_onnx_text(bundle) as engine:
        for text in (CHAT, PLAIN):
            assert engine.encode(text) == theirs(text, add_special_tokens=False)
