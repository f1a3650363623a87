"""Checkpoints that transformers 4 and 5 saved: the same bundles and answers as the one of the repository."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from builders.build import build
from builders.checkpoint import open_checkpoint
from builders.reference import FloatReference
from builders.relayout import relayout
from devtools.saved_configs import saved
from targets.recipes import recipe_named
from tests.support.checkpoints import write_json, write_tiny
from tests.support.transformers_4 import saved_config as saved_by_4
from tests.support.transformers_5 import SHAPES, v4_config, v5_config
from tests.support.transformers_models import longrope_renamed, transformers_logits

WRITERS = {"repository": v4_config, "v4": saved_by_4, "v5": v5_config}


def write_all(folder: Path, name: str) -> dict[str, Path]:
    """Write the same weights, with the repository's config, transformers 4's and 5's."""
    folders = {writer: write_tiny(folder / writer, SHAPES[name]) for writer in WRITERS}
    for writer, place in folders.items():
        write_json(place / "config.json", WRITERS[writer](name))
    return folders


@pytest.mark.filterwarnings("ignore:`rope_scaling` is deprecated:FutureWarning")  # Phi-3-small's own class sets it
@pytest.mark.parametrize("name", SHAPES)
def test_the_installed_transformers_saves_what_was_recorded(name: str) -> None:
    installed = saved(v4_config(name))
    assert installed.pop("transformers_version")
    recorded = v5_config(name)
    assert recorded.pop("transformers_version") == "5.24.0"
    assert installed == recorded


@pytest.mark.parametrize("name", ["phi3", "phi3_longrope", "phi3_partial", "llama"])
def test_the_reference_answers_as_transformers(tmp_path: Path, name: str) -> None:
    tokens = np.random.default_rng(1).integers(0, 320, 90)
    folders = write_all(tmp_path, name)
    for length in (40, 90):  # the edge of longrope is at 64
        expected = transformers_logits(folders["v5"], tokens[:length])
        for folder in folders.values():
            reference = FloatReference(open_checkpoint(folder))
            logits = reference.logits(reference.hidden(tokens[None, :length])[0])
            np.testing.assert_allclose(logits, expected, atol=1e-4)
            np.testing.assert_array_equal(transformers_logits(folder, tokens[:length]), expected)


def test_the_installed_transformers_cannot_load_the_first_name_of_longrope(tmp_path: Path) -> None:
    import transformers

    config = SHAPES["phi3_longrope"].config()
    config["rope_scaling"]["type"] = "su"
    with pytest.raises(KeyError, match="original_max_position_embeddings"):
        transformers.Phi3Config.from_dict(json.loads(json.dumps(config)))
    renamed = transformers.Phi3Config.from_dict(longrope_renamed(config))
    assert renamed.rope_parameters["rope_type"] == "longrope"


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("phi3", "gguf-q8_0"),
        ("phi3_longrope", "gguf-f16"),
        ("phi3_longrope", "onnx-int4"),
        ("phi3_longrope", "coreml-fp16"),
        ("phi3_partial", "gguf-q8_0"),
        ("phi3_partial", "onnx-int4"),
        ("phi3_partial", "coreml-int4"),
        ("llama", "gguf-q8_0"),
        ("llama", "onnx-fp16"),
        ("phi3small_longrope", "onnx-fp16"),
    ],
)
def test_the_bundles_are_the_same_bytes(tmp_path: Path, name: str, recipe: str) -> None:
    files = []
    for folder in write_all(tmp_path, name).values():
        bundle = build(open_checkpoint(folder), recipe_named(recipe), tmp_path / f"{folder.name}-bundle")
        manifest = bundle.manifest.model_dump()
        files.append(({file["path"]: file["sha256"] for file in manifest["files"]}, manifest["model"]))
    assert len(files[0][0]) > 2
    assert files[0] == files[1] == files[2]


@pytest.mark.parametrize(("name", "layout"), [("phi3", "llama"), ("llama", "phi3")])
def test_the_other_layout_keeps_the_rope_and_the_dtype(tmp_path: Path, name: str, layout: str) -> None:
    written = []
    for folder in write_all(tmp_path, name).values():
        relayout(open_checkpoint(folder), layout, folder / "other")
        written.append(open_checkpoint(folder / "other").architecture)
        assert written[0] == written[-1]
        assert written[0].rope_theta == v4_config(name)["rope_theta"]
        config = json.loads((folder / "other" / "config.json").read_bytes())
        assert (config["torch_dtype"], config["rope_theta"]) == ("float32", v4_config(name)["rope_theta"])
        assert config.keys().isdisjoint({"dtype", "rope_parameters"})
