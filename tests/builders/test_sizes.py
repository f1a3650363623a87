"""A whole bundle's size before it is built is its size after."""

from __future__ import annotations

from pathlib import Path

import pytest

from builders.build import build
from builders.checkpoint import open_checkpoint
from builders.conversion import BuildRequest
from builders.sizes import bundle_sizes
from targets.recipes import RECIPES, recipe_named
from tests.support.checkpoints import write_tiny
from tests.support.sentencepiece_folder import write_sentencepiece


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("kind", ["tokenizer.json", "tokenizer.model"])
def test_every_file_has_the_predicted_size(tmp_path: Path, recipe: str, kind: str) -> None:
    write = write_tiny if kind == "tokenizer.json" else write_sentencepiece
    checkpoint = open_checkpoint(write(tmp_path / "checkpoint"))
    predicted = bundle_sizes(BuildRequest.from_checkpoint(checkpoint, recipe_named(recipe), 128))
    bundle = build(checkpoint, recipe_named(recipe), tmp_path / "bundle", context_length=128)
    assert predicted == {file.path: file.bytes for file in bundle.manifest.files}
