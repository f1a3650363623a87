"""The dithered copy of a checkpoint: each weight moved by no more than half a step of its block."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from builders.checkpoint import open_checkpoint
from devtools.dithered import dithered, write_dithered
from tests.support.checkpoints import Tiny, random_weights, write_tiny


def test_a_weight_moves_by_up_to_half_a_step_of_its_block() -> None:
    steps = np.array([[0.5], [2.0]])
    codes = np.random.default_rng(0).integers(0, 16, (2, 32))
    codes[:, :2] = 0, 15
    matrix = (codes * steps - 3).astype(np.float32).reshape(1, 64)
    moved = dithered(matrix, np.random.default_rng(1)).reshape(2, 32)
    places = (moved - matrix.reshape(2, 32)) / steps
    assert np.abs(places).max() <= 0.5 + 1e-6
    assert places.min() < -0.4
    assert places.max() > 0.4


def test_only_the_layers_matrices_change_and_the_copy_is_a_checkpoint(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "checkpoint", Tiny(dtype="F16"))
    for name in ("first", "second"):
        write_dithered(folder, tmp_path / name)
    before, first, second = (
        load_file(tmp_path / name / "model.safetensors") for name in ("checkpoint", "first", "second")
    )
    changed = {name for name in before if (before[name] != first[name]).any()}
    assert changed == {name for name in random_weights(Tiny().config()) if ".layers." in name and "norm" not in name}
    assert all((first[name] == second[name]).all() for name in before)
    assert open_checkpoint(tmp_path / "first").architecture == open_checkpoint(folder).architecture
