"""The padded copy of a checkpoint computes the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from builders.checkpoint import open_checkpoint
from builders.reference import FloatReference
from devtools.padded import write_padded
from tests.support.checkpoints import write_tiny


def test_the_padded_copy_computes_the_same_in_whole_blocks(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "checkpoint", dtype="F32", tied=True)
    write_padded(folder, tmp_path / "padded")
    tokens = np.random.default_rng(0).integers(0, 300, (1, 24))
    logits = []
    for name in ("checkpoint", "padded"):
        checkpoint = open_checkpoint(tmp_path / name)
        reference = FloatReference(checkpoint, tmp_path / "cache")
        logits.append(reference.logits(reference.hidden(tokens)[0]))
    assert checkpoint.architecture.hidden_size == 256
    assert np.abs(logits[0]).max() > 0.1
    np.testing.assert_allclose(*logits, atol=1e-5)


def test_the_padded_copy_keeps_every_weight(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "checkpoint", dtype="F32")
    write_padded(folder, tmp_path / "padded")
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("checkpoint", "padded"))
    assert before.keys() == after.keys()
    for name, values in before.items():
        if values.ndim == 2:
            assert np.sort(after[name][after[name] != 0]).tolist() == np.sort(values[values != 0]).tolist()
