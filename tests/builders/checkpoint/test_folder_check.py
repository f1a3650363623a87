"""Folders that are no checkpoint, or not a whole one, are recognised as what they are."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from builders.checkpoint import open_checkpoint
from builders.checkpoint.adapter.folder import open_adapter
from devtools.bundles import make_bundle
from targets.errors import CheckpointError
from tests.support.checkpoints import write_json

POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
)


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint, to be changed."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "copy"))


@pytest.mark.parametrize(
    "name", ["model.safetensors", "tokenizer.json", "tokenizer.model", "config.json", "generation_config.json"]
)
def test_a_pointer_of_git_lfs_is_recognised(folder: Path, name: str) -> None:
    (folder / name).write_bytes(POINTER)
    with pytest.raises(CheckpointError, match=rf"{name} is a git-lfs pointer") as refused:
        open_checkpoint(folder)
    assert "git lfs pull" in refused.value.fix


def test_a_bundle_is_recognised(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    with pytest.raises(CheckpointError, match="bundle is a bundle, which was built from a checkpoint") as refused:
        open_checkpoint(bundle.path)
    assert "phipack inspect" in refused.value.fix


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "tokenizer.json"])
def test_a_pointer_in_an_adapters_folder_is_recognised(tmp_path: Path, name: str) -> None:
    write_json(tmp_path / "adapter_config.json", {"peft_type": "LORA", "target_modules": ["o_proj"]})
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    (tmp_path / name).write_bytes(POINTER)
    with pytest.raises(CheckpointError, match=rf"{name} is a git-lfs pointer") as refused:
        open_adapter(tmp_path)
    assert "git lfs pull" in refused.value.fix


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_link_of_the_hubs_cache_whose_file_is_gone_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    (folder / name).symlink_to("../../blobs/4d7a2146")
    with pytest.raises(CheckpointError, match=rf"{name} is a link to .*4d7a2146, which is not there") as refused:
        open_checkpoint(folder)
    assert "download the checkpoint again" in refused.value.fix


def test_a_broken_link_of_a_file_that_nobody_reads_is_no_matter(folder: Path) -> None:
    (folder / "README.md").symlink_to("gone")
    open_checkpoint(folder)


def test_a_snapshot_of_the_hubs_cache_opens_and_has_the_same_digest(folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "models--org--name"
    snapshot = root / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (root / "blobs").mkdir()
    for number, path in enumerate(sorted(folder.iterdir())):
        blob = root / "blobs" / str(number)
        shutil.copy(path, blob)
        (snapshot / path.name).symlink_to(blob)
    assert open_checkpoint(snapshot).digest == open_checkpoint(folder).digest
    with pytest.raises(CheckpointError, match="is the hub's cache of a model") as refused:
        open_checkpoint(root)
    assert str(snapshot) in refused.value.fix


def adapter(folder: Path, base: str | None = "org/base") -> None:
    folder.mkdir(exist_ok=True)
    write_json(folder / "adapter_config.json", {"peft_type": "LORA", "base_model_name_or_path": base})
    (folder / "adapter_model.safetensors").write_bytes(b"never opened")


def test_an_adapter_alone_is_recognised_with_its_base(tmp_path: Path) -> None:
    adapter(tmp_path / "lora")
    with pytest.raises(CheckpointError, match=r"is an adapter \(LoRA\) of org/base") as refused:
        open_checkpoint(tmp_path / "lora")
    assert f"phipack build BASE --adapter {tmp_path / 'lora'}" in refused.value.fix
    assert "merge_and_unload" in refused.value.fix


@pytest.mark.parametrize("content", ["{", "[]", '{"base_model_name_or_path": 3}', "{}"])
def test_an_adapter_whose_config_is_damaged_is_still_one(tmp_path: Path, content: str) -> None:
    adapter(tmp_path / "lora")
    (tmp_path / "lora" / "adapter_config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"is an adapter \(LoRA\) of a model that"):
        open_checkpoint(tmp_path / "lora")


def test_an_adapter_in_a_models_folder_is_not_left_out_silently(folder: Path) -> None:
    adapter(folder)
    with pytest.raises(CheckpointError, match=r"a whole model and an adapter \(adapter_config\.json, adapter_model"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("found", "exact"), [("Config.json", "config.json"), ("MODEL.safetensors", "model.safetensors")]
)
def test_a_name_in_another_case_is_named(folder: Path, found: str, exact: str) -> None:
    (folder / exact).rename(folder / found)
    if (folder / exact).exists():
        pytest.fail("the file system ignores case: run the tests on one that does not")
    with pytest.raises(CheckpointError, match=rf"{found} is not read: the name must be {exact}"):
        open_checkpoint(folder)


def test_subfolders_are_not_looked_into(folder: Path) -> None:
    before = open_checkpoint(folder).digest
    (folder / "original").mkdir()
    (folder / "original" / "consolidated.00.pth").write_bytes(b"x")
    (folder / "onnx").mkdir()
    shutil.copy(folder / "model.safetensors", folder / "onnx" / "model.safetensors")
    opened = open_checkpoint(folder)
    assert (opened.digest, opened.notes) == (before, ())
