"""Tiny bundles that run: what validation is tried on."""

from __future__ import annotations

import pytest

from builders.build import build
from builders.checkpoint import Checkpoint
from registry.bundle.folder import Bundle
from targets.recipes import recipe_named


@pytest.fixture(scope="session")
def bundle(tiny: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A tiny GGUF bundle in float16. Don't change it."""
    return build(tiny, recipe_named("gguf-f16"), tmp_path_factory.mktemp("bundles") / "gguf-f16")
