"""Which files are the weights: those that transformers loads, or the folder is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from builders.build import build
from builders.checkpoint import open_checkpoint
from targets.errors import CheckpointError, UnsupportedModelError
from targets.recipes import recipe_named
from tests.support.checkpoints import Tiny, random_weights, write_json, write_tiny, write_weights
from tests.support.transformers_models import auto_model

NORM = "model.norm.weight"
INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny checkpoint in one file, to be changed."""
    return write_tiny(tmp_path / "one", dtype="F32")


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """The same in three shards with an index."""
    return write_tiny(tmp_path / "sharded", dtype="F32", shards=3)


def other_weights() -> dict[str, np.ndarray]:
    return random_weights(Tiny().config(), seed=5)


def test_a_new_file_next_to_shards_is_refused_with_both_named(sharded: Path) -> None:
    write_weights(sharded, other_weights(), dtype="F32")
    loaded = auto_model(sharded).state_dict()[NORM].numpy()
    np.testing.assert_array_equal(loaded, other_weights()[NORM])  # transformers loads model.safetensors
    with pytest.raises(CheckpointError, match=r"model\.safetensors, which transformers loads, and 3 files") as refused:
        open_checkpoint(sharded)
    assert INDEX in refused.value.fix


def test_an_index_of_one_file_is_checked_and_built(folder: Path) -> None:
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(other_weights(), "model.safetensors")}
    write_json(folder / INDEX, index)
    assert [file.name for file in open_checkpoint(folder).shard_files] == ["model.safetensors"]
    del index["weight_map"][NORM]
    write_json(folder / INDEX, index)
    with pytest.raises(CheckpointError, match="but not in the index"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "consolidated.00.pth", "consolidated.safetensors", "model-q4.gguf", "tf_model.h5"]
)
def test_what_transformers_does_not_read_is_said_in_the_bundle(folder: Path, name: str, tmp_path: Path) -> None:
    before = open_checkpoint(folder).digest
    (folder / name).write_bytes(b"other weights")
    loaded = auto_model(folder).state_dict()[NORM].numpy()
    opened = open_checkpoint(folder)
    np.testing.assert_array_equal(opened.open_tensors().tensor(NORM), loaded)
    assert opened.digest == before
    note = f"not read, as transformers prefers safetensors: {name}"
    assert opened.notes == (note,)
    assert note in build(opened, recipe_named("gguf-f16"), tmp_path / "bundle").manifest.recipe.notes


@pytest.mark.parametrize(
    "name", ["training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state_0.pth", "trainer_state.json", "scaler.pt"]
)
def test_the_state_of_a_training_run_is_no_matter(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"x")
    assert open_checkpoint(folder).notes == ()


@pytest.mark.parametrize("name", ["model-00004-of-00004.safetensors", "model.fp16.safetensors", "extra.safetensors"])
def test_other_safetensors_are_refused_by_name(sharded: Path, name: str) -> None:
    shutil.copy(sharded / "model-00001-of-00003.safetensors", sharded / name)
    with pytest.raises(CheckpointError, match=rf"{name} is not one of the model's files"):
        open_checkpoint(sharded)


def test_files_of_distributed_training_are_refused(folder: Path) -> None:
    # transformers 5 would read them and not model.safetensors.
    shutil.copy(folder / "model.safetensors", folder / "shard-00000-model-00001-of-00001.safetensors")
    with pytest.raises(UnsupportedModelError, match="a part of a checkpoint of distributed training"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("names", "error", "problem", "fix"),
    [
        (["model-00001-of-00001.safetensors"], CheckpointError, f"without {INDEX}", "rename model-00001-of-00001"),
        (
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
            CheckpointError,
            f"without {INDEX}",
            f"download {INDEX} too",
        ),
        (["model-00001-of-00002.safetensors"], CheckpointError, f"without {INDEX}", f"download {INDEX} too"),
        (["weights.safetensors"], CheckpointError, "weights.safetensors has another name", "rename weights"),
        (["consolidated.safetensors"], UnsupportedModelError, "the maker's own format", "files for transformers"),
        (["consolidated.00.pth"], UnsupportedModelError, "the maker's own format", "-hf"),
        (["phi-3-mini-q4.gguf"], UnsupportedModelError, "converted and perhaps quantized", "original checkpoint"),
        (["pytorch_model.bin", "training_args.bin"], CheckpointError, r"pickled \(pytorch_model.bin\)", "safe_serial"),
        (["training_args.bin"], CheckpointError, "no weights: neither", "name the folder"),
    ],
)
def test_without_the_usual_files_the_error_says_what_is_there(
    folder: Path, names: list[str], error: type[CheckpointError], problem: str, fix: str
) -> None:
    for name in names:
        shutil.copy(folder / "model.safetensors", folder / name)
    (folder / "model.safetensors").unlink()
    with pytest.raises(error, match=problem) as refused:
        open_checkpoint(folder)
    assert type(refused.value) is error
    assert fix in refused.value.fix


def test_the_digest_covers_which_file_a_tensor_is_in(sharded: Path) -> None:
    before = open_checkpoint(sharded).digest
    index = json.loads((sharded / INDEX).read_bytes())
    first, second = "model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors"
    for one, other in ((first, "x"), (second, first), ("x", second)):
        (sharded / one).rename(sharded / other)
    swap = {first: second, second: first}
    index["weight_map"] = {name: swap.get(shard, shard) for name, shard in index["weight_map"].items()}
    write_json(sharded / INDEX, index)
    assert open_checkpoint(sharded).digest != before


@pytest.mark.parametrize("name", ["s" * 300, "a\0b", "é" * 200])
def test_a_shard_name_that_no_disk_has_is_missing(folder: Path, name: str) -> None:
    (folder / "model.safetensors").unlink()
    write_json(folder / INDEX, {"weight_map": {NORM: f"{name}.safetensors"}})
    with pytest.raises(CheckpointError, match=r"shard '.{1,90}' is missing, though the index names it") as refused:
        open_checkpoint(folder)
    assert len(refused.value.problem) < 300
