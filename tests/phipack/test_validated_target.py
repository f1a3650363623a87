"""What `phipack validate` refuses before anything is measured: a device or a gate that can't be served."""

from __future__ import annotations

from pathlib import Path

import pytest

import phipack
from devtools.bundles import make_bundle
from registry.bundle.folder import seal
from targets.errors import FitError, MeasurementError
from tests.support.checkpoints import write_tiny


def test_a_gate_on_what_is_not_taken_is_refused_first(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", {"model.gguf": b"1"})
    checkpoint = write_tiny(tmp_path / "checkpoint")
    with pytest.raises(MeasurementError, match="the gate code_kl_mean <= 1 can't pass: the suite accuracy") as refused:
        phipack.validate(bundle, checkpoint, gates=["code_kl_mean<=1"])
    assert refused.value.fix == "add --suite full, or leave the gate out"


def test_a_target_without_a_runtime_for_the_format_is_refused_first(tmp_path: Path) -> None:
    """It ended in a KeyError, after all had been measured."""
    made = make_bundle(tmp_path / "bundle", {"model.gguf": b"1"})
    recipe = made.manifest.recipe.model_copy(update={"name": "coreml-int4", "format": "coreml"})
    bundle = seal(made.path, made.manifest.model_copy(update={"recipe": recipe}))
    with pytest.raises(FitError, match="has no runtime for coreml") as refused:
        phipack.validate(bundle, write_tiny(tmp_path / "checkpoint"), target="galaxy-s24")
    assert "gguf" in refused.value.fix
