"""Fine-tunes of the real 135M model by arithmetic: noise on every weight, or a low-rank product on some matrices.

The model comes from a 4-bit GGUF: its weights are on a grid, unlike those of a trained model. The first version
therefore already has noise of 3 % of each tensor's deviation. Versions are float32, so that no change is rounded away.
"""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from builders.checkpoint import Checkpoint, open_checkpoint
from builders.checkpoint.writing import TensorToWrite, write_safetensors

OFF_THE_GRID = 0.03
RANK, ADAPTED = 16, ("qkv_proj", "o_proj")
NUDGES = {"noise 1e-4": 1e-4, "noise 1e-3": 1e-3, "noise 1e-2": 1e-2}
ADAPTER = "rank 16 on attention, 1e-2"
Change = Callable[[str, NDArray[np.float32]], NDArray[np.float32]]


def unchanged(_name: str, weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a tensor unchanged."""
    return weights


def noise(relative: float, name: str, weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Add normal noise of `relative` times the tensor's standard deviation to every weight."""
    return weights + _normal(name, weights.shape) * np.float32(relative * weights.std())


def adapter(relative: float, name: str, weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Add a product of two thin matrices to attention's, as a merged LoRA does: `relative` times the deviation."""
    if not any(part in name for part in ADAPTED):
        return weights
    product = _normal(name + "a", (weights.shape[0], RANK)) @ _normal(name + "b", (RANK, weights.shape[1]))
    return weights + product * np.float32(relative * weights.std() / RANK**0.5)


def changes() -> dict[str, Change]:
    """Return the fine-tunes by name."""
    noises: dict[str, Change] = {name: partial(noise, relative) for name, relative in NUDGES.items()}
    return noises | {ADAPTER: partial(adapter, 1e-2)}


def write_version(source: Path, out: Path, change: Change) -> Checkpoint:
    """Write the model of `source` as a separate checkpoint, with grid noise and the change."""
    checkpoint = open_checkpoint(source)
    shutil.copytree(source, out, ignore=shutil.ignore_patterns("*.safetensors"))
    entries, source = checkpoint.stored_tensors, checkpoint.open_tensors()

    def pieces(name: str) -> Iterator[NDArray[np.float32]]:
        weights = source.stored_tensor(name)
        yield change(name, noise(OFF_THE_GRID, name + "grid", weights))

    write_safetensors(
        out / "model.safetensors",
        [TensorToWrite(name, "F32", entry.shape, partial(pieces, name)) for name, entry in entries.items()],
    )
    return open_checkpoint(out)


def _normal(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    return np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, dtype=np.float32)
