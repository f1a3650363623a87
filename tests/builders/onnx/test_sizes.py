"""Sizes are known to the byte before any weight is read."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from builders.build import build
from builders.checkpoint import Checkpoint, open_checkpoint
from builders.conversion import BuildRequest
from builders.onnx import artifact_sizes
from builders.tokenizer import load_tokenizer
from devtools.synthetic import CONFIGS
from targets.config_json import read_architecture
from targets.errors import UnsupportedModelError
from targets.recipes import recipe_named
from targets.storage.onnx import data_bytes
from tests.support.checkpoints import write_tiny, write_tokenizer
from tests.support.parity import LIKE_PHI_4_MINI

MINI = CONFIGS["mini"]
SMALL_128K = CONFIGS["small"] | {
    "max_position_embeddings": 131072,
    "rope_scaling": {
        "type": "su",
        "short_factor": [1.0] * 64,
        "long_factor": [2.0] * 64,
        "original_max_position_embeddings": 8192,
    },
}
BITS = {"onnx-fp16": (16, 16.2), "onnx-int8": (8.1, 8.3), "onnx-int4": (4.6, 5.1)}  # of a matrix's element
SHAPES: dict[str, dict[str, Any]] = {
    "Phi-4-mini": LIKE_PHI_4_MINI | {"original_context": 64},
    "phi3": {},
    "tied": {"tied": True, "dtype": "F32"},
    "longrope": {"original_context": 64, "window": 100},
    "llama": {"family": "llama", "kv_heads": 4, "shards": 2},
    "phi3small": {"family": "phi3small"},
    "phi3small, longrope": {"family": "phi3small", "original_context": 64},
    "phi3small, dense": {"family": "phi3small", "context": 32},
    "phi3small, odd context": {"family": "phi3small", "context": 203, "heads": 2, "layers": 3},
}


@pytest.mark.parametrize("recipe", BITS)
@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES.keys())
def test_sizes_are_those_of_the_files(tmp_path: Path, recipe: str, changes: dict[str, Any]) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path / "checkpoint", **changes))
    sizes = artifact_sizes(_request(checkpoint, recipe))
    bundle = build(checkpoint, recipe_named(recipe), tmp_path / "bundle")
    assert sizes == {name: bundle.file(name).stat().st_size for name in sizes}
    assert set(sizes) == {"model.onnx", "model.onnx.data", "genai_config.json"}
    assert sizes["model.onnx.data"] == data_bytes(
        checkpoint.architecture, recipe_named(recipe), checkpoint.architecture.context_length
    )


@pytest.mark.parametrize("recipe", BITS)
@pytest.mark.parametrize("config", [MINI, SMALL_128K], ids=["mini", "small-128k"])
def test_full_size_takes_no_weights_and_little_memory(tmp_path: Path, recipe: str, config: dict[str, Any]) -> None:
    architecture = read_architecture(config)
    write_tokenizer(tmp_path)
    weightless = Checkpoint(tmp_path, config, {}, architecture, (), {})
    load_tokenizer(tmp_path)  # imports transformers
    tracemalloc.start()
    sizes = artifact_sizes(_request(weightless, recipe))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50 << 20  # a matrix of theirs in 4 bits has as much
    elements = sum(rows[0] * rows[1] for rows in architecture.tensor_shapes().values() if len(rows) == 2)
    bits = 8 * sizes["model.onnx.data"] / elements
    least, most = BITS[recipe]
    assert least <= bits < most


def test_what_convert_refuses_has_no_size(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path / "checkpoint", intermediate=72))
    with pytest.raises(UnsupportedModelError, match="72 elements"):
        artifact_sizes(_request(checkpoint, "onnx-int4"))


def _request(checkpoint: Checkpoint, recipe: str) -> BuildRequest:
    return BuildRequest.from_checkpoint(checkpoint, recipe_named(recipe), checkpoint.architecture.context_length)
