"""The tokenizer files that a bundle gets, whatever the checkpoint has."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import transformers

from builders.build import build
from builders.checkpoint import open_checkpoint
from builders.tokenizer import bundled_tokenizer, load_tokenizer, read_bundled_tokenizer
from targets.errors import CheckpointError
from targets.recipes import recipe_named
from tests.support.checkpoints import CHAT_TEMPLATE, edit_json, write_json, write_tiny
from tests.support.sentencepiece_folder import write_sentencepiece

TEXTS = ("the town in the house", "<|user|>\nhello <|end|>  \n<|assistant|>", "naïve 数 👩🏽‍🚀\t\n\n  x", "", " ")


@pytest.mark.parametrize("recipe", ["gguf-q8_0", "onnx-int4", "coreml-int4"])
def test_an_id_past_the_vocabulary_is_named_before_anything_is_written(tmp_path: Path, recipe: str) -> None:
    folder = write_tiny(tmp_path / "checkpoint")
    content = json.loads((folder / "tokenizer.json").read_bytes())
    content["model"]["vocab"]["zebra"] = 320
    write_json(folder / "tokenizer.json", content)
    with pytest.raises(CheckpointError, match=r"id 320 \('zebra'\) is not in the vocabulary of 320"):
        build(open_checkpoint(folder), recipe_named(recipe), tmp_path / "bundle")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


@pytest.mark.parametrize("recipe", ["gguf-q8_0", "onnx-int4", "coreml-int4"])
@pytest.mark.parametrize("write", [write_tiny, write_sentencepiece])
def test_every_format_has_the_same_three_files(tmp_path: Path, recipe: str, write: Callable[[Path], Path]) -> None:
    checkpoint = open_checkpoint(write(tmp_path / "checkpoint"))
    bundle = build(checkpoint, recipe_named(recipe), tmp_path / "bundle")
    found = {path.name for path in bundle.path.iterdir() if "token" in path.name or "chat" in path.name}
    assert found == {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    original, carried = load_tokenizer(checkpoint.path), read_bundled_tokenizer(bundle.path)
    theirs = transformers.AutoTokenizer.from_pretrained(bundle.path)  # no config.json there: the class decides
    for text in TEXTS:
        ids = original.encode(text, add_special_tokens=True)
        assert carried.encode(text, add_special_tokens=True) == theirs.encode(text) == ids
        assert carried.decode(ids) == theirs.decode(ids, skip_special_tokens=True) == original.decode(ids)
    assert carried.special_tokens == original.special_tokens


def test_a_tokenizer_json_that_transformers_obeys_goes_along_as_it_is(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path / "checkpoint"))
    bundle = build(checkpoint, recipe_named("gguf-q8_0"), tmp_path / "bundle")
    assert bundle.file("tokenizer.json").read_bytes() == (checkpoint.path / "tokenizer.json").read_bytes()


def test_the_config_says_what_runtimes_take_for_granted(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "checkpoint")
    edit_json(folder / "tokenizer_config.json", clean_up_tokenization_spaces=True, legacy=False, auto_map={"x": "y.Z"})
    config = json.loads(bundled_tokenizer(open_checkpoint(folder), "coreml").files["tokenizer_config.json"])
    assert config == {
        "tokenizer_class": "PreTrainedTokenizerFast",  # swift-transformers and transformers rebuild Llama's
        "bos_token": "<|endoftext|>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "add_bos_token": False,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,  # swift-transformers: true, where nothing is said
        "chat_template": CHAT_TEMPLATE,
    }
