"""`phipack validate --target`: a device that can't run the bundle is refused before anything is measured."""

from __future__ import annotations

from pathlib import Path

import pytest

import phipack
from devtools.bundles import make_bundle
from registry.bundle.folder import seal
from targets.errors import FitError
from tests.support.checkpoints import write_tiny


def test_a_target_without_a_runtime_for_the_format_is_refused_first(tmp_path: Path) -> None:
    """It ended in a KeyError, after all had been measured."""
    made = make_bundle(tmp_path / "bundle", {"model.gguf": b"1"})
    recipe = made.manifest.recipe.model_copy(update={"name": "coreml-int4", "format": "coreml"})
    bundle = seal(made.path, made.manifest.model_copy(update={"recipe": recipe}))
    with pytest.raises(FitError, match="has no runtime for coreml") as refused:
        phipack.validate(bundle, write_tiny(tmp_path / "checkpoint"), target="galaxy-s24")
    assert "gguf" in refused.value.fix
