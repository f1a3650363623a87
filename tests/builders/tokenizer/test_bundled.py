"""The tokenizer files that a bundle gets, whatever the checkpoint has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from builders.build import build
from builders.checkpoint import open_checkpoint
from builders.tokenizer import load_tokenizer
from targets.errors import CheckpointError
from targets.recipes import RECIPES, recipe_named
from tests.support.checkpoints import write_json, write_tiny
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


@pytest.mark.parametrize("recipe", ["onnx-int4", "coreml-int4"])
def test_sentencepiece_alone_becomes_a_tokenizer_json_too(tmp_path: Path, recipe: str) -> None:
    checkpoint = open_checkpoint(write_sentencepiece(tmp_path / "checkpoint"))
    bundle = build(checkpoint, recipe_named(recipe), tmp_path / "bundle")
    original = load_tokenizer(checkpoint.path)
    bundle.file("tokenizer.model").unlink()  # what is left is enough
    carried = load_tokenizer(bundle.path)
    for text in TEXTS:
        ids = original.encode(text, add_special_tokens=True)
        assert carried.encode(text, add_special_tokens=True) == ids
        assert carried.decode(ids) == original.decode(ids)


@pytest.mark.parametrize("recipe", RECIPES)
def test_files_go_along_as_they_are(tmp_path: Path, recipe: str) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path / "checkpoint"))
    bundle = build(checkpoint, recipe_named(recipe), tmp_path / "bundle")
    for name, path in checkpoint.tokenizer_files.items():
        assert bundle.file(name).read_bytes() == path.read_bytes()
