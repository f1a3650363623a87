"""A checkpoint that transformers 5 saved: the same bundles and answers as the one that transformers 4 saved."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from builders.build import build
from builders.checkpoint import open_checkpoint
from builders.reference import FloatReference
from builders.relayout import relayout
from targets.recipes import recipe_named
from tests.support.checkpoints import write_json, write_tiny
from tests.support.transformers_5 import SHAPES, TOKENS, last_logits, v4_config, v5_config


def write_both(folder: Path, name: str) -> tuple[Path, Path]:
    """Write the same weights twice, with transformers 4's config and with 5's."""
    v4, v5 = (write_tiny(folder / version, SHAPES[name]) for version in ("v4", "v5"))
    write_json(v4 / "config.json", v4_config(name))
    write_json(v5 / "config.json", v5_config(name))
    return v4, v5


@pytest.mark.parametrize("length", [40, 90])
@pytest.mark.parametrize("name", ["phi3", "phi3_longrope", "llama"])
def test_the_reference_answers_as_transformers_5(tmp_path: Path, name: str, length: int) -> None:
    _, v5 = write_both(tmp_path, name)
    reference = FloatReference(open_checkpoint(v5))
    logits = reference.logits(reference.hidden(TOKENS[:, :length])[0])
    np.testing.assert_allclose(logits[-1, :8], last_logits(name)[length], atol=1e-4)


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("phi3", "gguf-q8_0"),
        ("phi3_longrope", "gguf-f16"),
        ("phi3_longrope", "onnx-int4"),
        ("phi3_longrope", "coreml-fp16"),
        ("llama", "gguf-q8_0"),
        ("llama", "onnx-fp16"),
        ("phi3small_longrope", "onnx-fp16"),
    ],
)
def test_the_bundles_are_the_same_bytes(tmp_path: Path, name: str, recipe: str) -> None:
    files = []
    for folder in write_both(tmp_path, name):
        bundle = build(open_checkpoint(folder), recipe_named(recipe), tmp_path / f"{folder.name}-bundle")
        manifest = bundle.manifest.model_dump()
        files.append(({file["path"]: file["sha256"] for file in manifest["files"]}, manifest["model"]))
    assert len(files[0][0]) > 2
    assert files[0] == files[1]


@pytest.mark.parametrize(("name", "layout"), [("phi3", "llama"), ("llama", "phi3")])
def test_the_other_layout_keeps_the_rope_and_the_dtype(tmp_path: Path, name: str, layout: str) -> None:
    v4, v5 = write_both(tmp_path, name)
    for folder in (v4, v5):
        relayout(open_checkpoint(folder), layout, folder / "other")
    written = open_checkpoint(v5 / "other")
    assert written.architecture == open_checkpoint(v4 / "other").architecture
    assert written.architecture.rope_theta == v4_config(name)["rope_theta"]
    config = json.loads((v5 / "other" / "config.json").read_bytes())
    assert (config["torch_dtype"], config["rope_theta"]) == ("float32", v4_config(name)["rope_theta"])
    assert config.keys().isdisjoint({"dtype", "rope_parameters"})
