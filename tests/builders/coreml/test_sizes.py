"""Sizes before a build are the sizes after it, to the byte, and cost no weight."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from builders.build import build
from builders.checkpoint import open_checkpoint
from builders.conversion import BuildRequest
from builders.coreml import artifact_sizes
from targets.recipes import recipe_named
from tests.support.cases import cases
from tests.support.checkpoints import write_tiny
from tests.support.parity import LIKE_PHI_4_MINI
from tests.support.sources import UnreadSource

SHAPES: dict[str, dict[str, Any]] = {
    "Phi-4-mini": LIKE_PHI_4_MINI | {"original_context": 64},
    "phi3": {"window": 7},
    "tied": {"tied": True},
    "longrope": {"original_context": 64},
    "llama": {"family": "llama"},
    "small": {"family": "phi3small", "original_context": 64},
    "rows of no whole blocks": {"intermediate": 72},
}


@pytest.mark.parametrize("recipe", ["coreml-fp16", "coreml-int4", "coreml-palettized4"])
@pytest.mark.parametrize("changes", cases(SHAPES, ["phi3", "tied", "longrope"]))
def test_sizes_are_exact(tmp_path: Path, recipe: str, changes: dict[str, Any]) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path / "checkpoint", **changes))
    bundle = build(checkpoint, recipe_named(recipe), tmp_path / "bundle", context_length=200)
    written = {file.path: file.bytes for file in bundle.manifest.files if file.path.startswith("model.mlpackage")}
    assert artifact_sizes(BuildRequest(checkpoint, UnreadSource(), recipe_named(recipe), 200)) == written
