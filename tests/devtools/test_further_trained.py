"""Further training lowers the loss on held-out text, changes the weights that it says, and is refused where not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.numpy import load_file

import phipack
from devtools.further_trained import How, Training, write
from tests.support.checkpoints import write_tiny

TEXT = "the quick brown fox jumps over the lazy dog. " * 60
EASY = Training(lambda: TEXT, "full", 2e-3, 8, 24, 2)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny") / "checkpoint", layers=9, dtype="F16", tied=True)


@pytest.mark.parametrize(("how", "layers"), [("full", {*range(9)}), ("top", {*range(1, 9)})])
def test_a_training_lowers_the_loss_and_changes_what_it_says(
    checkpoint: Path, tmp_path: Path, how: How, layers: set[int]
) -> None:
    before, after = write(checkpoint, replace(EASY, how=how), tmp_path / "new")
    assert after < before
    old, new = (load_file(folder / "model.safetensors") for folder in (checkpoint, tmp_path / "new"))
    changed = {name for name in old if (old[name] != new[name]).any()}
    assert {int(name.split(".")[2]) for name in changed if ".layers." in name} == layers
    assert ("model.embed_tokens.weight" in changed) == (how == "full")
    assert {name: one.dtype for name, one in old.items()} == {name: one.dtype for name, one in new.items()}
    assert phipack.open_checkpoint(tmp_path / "new").architecture.layer_count == 9


def test_an_adapter_is_written_that_phipack_merges(checkpoint: Path, tmp_path: Path) -> None:
    write(checkpoint, replace(EASY, how="lora"), tmp_path / "adapter")
    opened = phipack.open_checkpoint(checkpoint, adapter=tmp_path / "adapter")
    assert opened.digest != phipack.open_checkpoint(checkpoint).digest


def test_a_training_that_teaches_nothing_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="teaches nothing"):
        write(checkpoint, replace(EASY, rate=0.0), tmp_path / "new")
    assert not (tmp_path / "new").exists()
