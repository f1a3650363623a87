"""What `fit` expects a bundle to need is what is read from the bundle that is built, for every family and recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from builders.build import build
from builders.checkpoint import Checkpoint, open_checkpoint
from registry.bundle.requirements import check_requirements, features_of
from targets.errors import UnsupportedModelError
from targets.recipes import recipe_named
from targets.runtimes.expected import expected_features
from targets.runtimes.table import requires
from tests.support.checkpoints import write_tiny
from tests.support.phi4 import write_phi_4_mini

CONTEXT = 512
FAMILIES: dict[str, dict[str, Any] | None] = {
    "phi3": {"window": 64, "hidden": 256, "intermediate": 256},
    "longrope": {"context": 1024, "original_context": 256},
    "llama": {"family": "llama", "tied": True},
    "sparse": {"family": "phi3small"},
    "sparse longrope": {"family": "phi3small", "context": 1024, "original_context": 256},
    "phi-4-mini": None,
}


@pytest.fixture(scope="module", params=FAMILIES)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder, tiny = tmp_path_factory.mktemp("checkpoint") / "c", FAMILIES[request.param]
    return open_checkpoint(write_phi_4_mini(folder) if tiny is None else write_tiny(folder, **tiny))


@pytest.mark.parametrize("name", ["gguf-q4_k_m", "gguf-iq4_nl", "gguf-q3_k_m", "onnx-fp16", "onnx-int8", "onnx-int4"])
def test_what_is_expected_is_what_is_read(checkpoint: Checkpoint, tmp_path: Path, name: str) -> None:
    recipe, architecture = recipe_named(name), checkpoint.architecture
    if recipe.format == "gguf" and architecture.family == "phi3small":
        with pytest.raises(UnsupportedModelError, match=r"llama\.cpp"):
            build(checkpoint, recipe, tmp_path / "b", context_length=CONTEXT)
        return
    bundle = build(checkpoint, recipe, tmp_path / "b", context_length=CONTEXT)
    assert bundle.manifest.requires is not None
    found = set(bundle.manifest.requires.features)
    words = {one for one in found if one.startswith("gguf/pre/")}
    assert found - words == expected_features(architecture, recipe, CONTEXT)
    assert found == features_of(bundle.manifest.files, lambda entry: bundle.file(entry.path).open("rb"))
    assert bundle.manifest.requires == requires(found)
    check_requirements(bundle)


def test_a_core_ml_package_states_what_coremltools_wrote(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path / "c", layers=1))
    recipe = recipe_named("coreml-int4")
    bundle = build(checkpoint, recipe, tmp_path / "b", context_length=128)
    assert bundle.manifest.requires is not None
    assert set(bundle.manifest.requires.features) == expected_features(checkpoint.architecture, recipe, 128)
    assert [str(need) for need in bundle.manifest.requires.runtimes] == ["coreml 18.0 or later"]
