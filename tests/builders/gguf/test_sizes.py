"""Sizes before a build are the sizes after it, to the byte, and cost no weight."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from builders.build import build
from builders.checkpoint import Checkpoint, open_checkpoint
from builders.conversion import BuildRequest
from builders.gguf import artifact_sizes
from targets.recipes import RECIPES, recipe_named
from tests.support.checkpoints import write_tiny
from tests.support.parity import LIKE_PHI_4_MINI
from tests.support.sentencepiece_folder import write_sentencepiece
from tests.support.sources import UnreadSource

SHAPES: dict[str, dict[str, Any]] = {
    "Phi-4-mini": LIKE_PHI_4_MINI | {"original_context": 64},
    "window": {"window": 7},
    "tied": {"tied": True, "hidden": 256, "intermediate": 512},
    "longrope": {"original_context": 64},
    "llama": {"family": "llama"},
    "rows of no whole blocks": {"hidden": 80, "intermediate": 80, "heads": 5, "kv_heads": 5},
}


@pytest.mark.parametrize("recipe", [name for name, recipe in RECIPES.items() if recipe.format == "gguf"])
@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES.keys())
def test_sizes_are_exact(tmp_path: Path, recipe: str, changes: dict[str, Any]) -> None:
    _compare(open_checkpoint(write_tiny(tmp_path / "checkpoint", **changes)), recipe, tmp_path)


def test_sizes_with_sentencepiece_are_exact(tmp_path: Path) -> None:
    _compare(open_checkpoint(write_sentencepiece(tmp_path / "checkpoint")), "gguf-q4_0", tmp_path)


def _compare(checkpoint: Checkpoint, recipe: str, folder: Path) -> None:
    bundle = build(checkpoint, recipe_named(recipe), folder / "bundle", context_length=200)
    written = {file.path: file.bytes for file in bundle.manifest.files if file.path == "model.gguf"}
    assert artifact_sizes(BuildRequest(checkpoint, UnreadSource(), recipe_named(recipe), 200)) == written
