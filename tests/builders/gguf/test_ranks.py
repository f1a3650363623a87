"""A checkpoint whose tokenizer is a file of tiktoken's ranks, as llama.cpp reads it out of our file."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from builders.build import build
from builders.checkpoint import open_checkpoint
from builders.runtime.generation import generate
from builders.tokenizer import Tokenizer, load_tokenizer
from devtools import cl100k
from registry.bundle.folder import Bundle
from targets.errors import UnsupportedModelError
from targets.recipes import recipe_named
from tests.support import llama_cpp as llamacpp
from tests.support.cases import examples
from tests.support.checkpoints import Tiny, random_weights, write_json, write_weights
from tests.support.texts import TEXTS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with cl100k's ranks and nothing else of a tokenizer."""
    place = tmp_path_factory.mktemp("ranks") / "checkpoint"
    place.mkdir()
    config = Tiny(family="llama").config() | {"vocab_size": 100352}
    config |= dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), 100257)
    write_json(place / "config.json", config)
    write_json(place / "generation_config.json", {"eos_token_id": [100257, 100266]})
    write_weights(place, random_weights(config))
    shutil.copy(cl100k.ensure(), place)
    return place


@pytest.fixture(scope="module")
def bundle(folder: Path) -> Bundle:
    return build(open_checkpoint(folder), recipe_named("gguf-q8_0"), folder.parent / "bundle")


@pytest.fixture(scope="module")
def both(bundle: Bundle, folder: Path) -> Iterator[tuple[Any, Tokenizer]]:
    with llamacpp.vocabulary(bundle.file("model.gguf")) as theirs:
        yield theirs, load_tokenizer(folder)


@settings(max_examples=examples(200), derandomize=True, deadline=None)
@given(text=TEXTS)
def test_ids_are_the_checkpoints(both: tuple[Any, Tokenizer], text: str) -> None:
    llama, checkpoint = both
    assert llama.encode(text) == checkpoint.encode(text)
    assert llama.encode(text, add_special=True) == checkpoint.encode(text, add_special_tokens=True)


def test_stop_ids_end_an_answer(both: tuple[Any, Tokenizer]) -> None:
    llama, _ = both
    assert llama.size == 100352
    assert [token for token in range(100256, 100352) if llama.ends(token)] == [100257, 100266]


def test_the_bundle_answers_with_its_own_files(bundle: Bundle) -> None:
    assert bundle.manifest.recipe.notes == []
    assert "".join(generate(bundle, "Hello there", max_new_tokens=3))


def test_ranks_of_another_encoding_are_refused(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "cl100k_base.tiktoken").rename(copy / "o200k_base.tiktoken")
    with pytest.raises(UnsupportedModelError, match="only cl100k_base") as refused:
        build(open_checkpoint(copy), recipe_named("gguf-q8_0"), tmp_path / "bundle")
    assert refused.value.fix == "save the checkpoint's tokenizer as tokenizer.json in the same folder"
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]
