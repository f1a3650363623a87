"""The real model with its own 4-bit grid blurred: what quantizers are compared on.

The weights of `real_model` come from a Q4_1 file, so that all of them lie on blocks of 16 even steps: some types store
them without error, others are punished by where their own steps fall. Here each weight is moved by a random part of its
block's step, uniformly between half a step down and up, as if a quantizer had rounded it from there. The result is
another and noisier model: compare recipes on it, and quote figures of the original.

    CACHE/real-model/smollm2-135m-dithered/
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from devtools import real_model
from devtools.packages import default_cache
from registry.files.staging import staged_folder

_BLOCK, _STEPS = 32, 15  # of Q4_1, which stores a block's least and largest weight as its ends


def ensure_dithered(cache: Path | None = None) -> Path:
    """Return the path of the checkpoint's folder; it is made the first time."""
    cache = default_cache() if cache is None else cache
    folder = cache / "real-model" / "smollm2-135m-dithered"
    if not (folder / "config.json").is_file():
        write_dithered(real_model.ensure(cache).checkpoint, folder)
    return folder


def write_dithered(checkpoint: Path, folder: Path) -> None:
    """Write a copy of a checkpoint whose layers' matrices are dithered. The same checkpoint gives the same copy."""
    from safetensors.numpy import load_file, save_file

    generator = np.random.default_rng(0)
    weights = load_file(checkpoint / "model.safetensors")
    for name in sorted(weights):
        if name.startswith("model.layers.") and weights[name].ndim == 2:
            weights[name] = dithered(weights[name].astype(np.float32), generator).astype(weights[name].dtype)
    with staged_folder(folder, replace=True) as staging:
        for file in checkpoint.iterdir():
            if file.name not in ("model.safetensors", "origin.json"):
                shutil.copyfile(file, staging / file.name)
        save_file(weights, staging / "model.safetensors", metadata={"format": "pt"})


def dithered(matrix: NDArray[np.float32], generator: np.random.Generator) -> NDArray[np.float32]:
    """Return a matrix [rows, columns] with each weight moved by up to half a step of its block."""
    blocks = matrix.reshape(-1, _BLOCK)
    step = np.ptp(blocks, axis=1, keepdims=True) / _STEPS
    noise = generator.uniform(-0.5, 0.5, blocks.shape).astype(np.float32)
    moved: NDArray[np.float32] = blocks + noise * step
    return moved.reshape(matrix.shape)
