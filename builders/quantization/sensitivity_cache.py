"""Sensitivities of a checkpoint's matrices to a format's 4-bit blocks: measured once for a text, and kept.

    CACHE/CHECKPOINT-TOKENS-ARCHITECTURE-N.BLOCKS-M-TOOLS.sensitivities    in nats, of each matrix in the checkpoint's
                                                                           order

It is a file of numbers (reference/number_file.py); the rest of its name is the reference's (reference/logits.py), M the
number of the measurement, and TOOLS the first digits of a digest of the versions of what it is made with: they are
shared, and choose the types of bundles, by keys that have these versions (builders/matrix/keys.py). A walk that was
stopped has left its states in a file of that name with `.states` in addition, and goes on there.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from builders.checkpoint import Checkpoint
from builders.quantization.calibration.statistics import MatrixStatistics, usable
from builders.quantization.calibration.walks import Blocks
from builders.quantization.ggml_library import encode
from builders.quantization.grids.affine import AffineGrid
from builders.quantization.grids.ggml import decode
from builders.quantization.rounding.matrix import affine_matrix, scales_of
from builders.quantization.sensitivity import Floats, Rounding, sensitivities
from builders.reference import FloatReference
from builders.reference.number_file import prepare_folder, read_numbers, write_numbers
from builders.reference.walk_states import WalkStates
from builders.tool_versions import WALK_TOOLS, versions_digest
from registry.files.owned import require_own_folder
from targets.errors import CalibrationError
from targets.progress import Progress, silent
from targets.storage.gguf import TYPES

# Packages that sensitivities depend on, other than phipack itself: the walk's, and those that round.
SENSITIVITY_TOOLS: Mapping[Blocks, tuple[str, ...]] = {
    "gguf": (*WALK_TOOLS, "llama-cpp-python", "numba"),
    "affine": (*WALK_TOOLS, "numba"),
}
_MEASUREMENT = 3  # raise it when other numbers are measured: older files are then not read
_Q4_0_BLOCK = 32
_UINT4_BLOCKS = (32, 16)  # the first that divides a matrix's rows; Core ML stores what neither divides in float16
_WINDOWS, _WINDOW = 4, 128
_DIGITS = 4  # that are kept: what another order of sums changes is below them


def sensitivity_windows(windows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the part of a calibration's windows [W, T] that is read: the beginnings of a few, 512 tokens at most."""
    places = np.unique(np.linspace(0, len(windows) - 1, _WINDOWS).round().astype(int))
    return np.ascontiguousarray(windows[places, :_WINDOW])


def sensitivity_file(checkpoint: Checkpoint, blocks: Blocks, windows: NDArray[np.int64]) -> str:
    """Return the name of the file in which sensitivities are kept."""
    made = f"{blocks}-{_MEASUREMENT}-{versions_digest(SENSITIVITY_TOOLS[blocks])}"
    return f"{FloatReference(checkpoint).name_of(windows)}.{made}.sensitivities"


def measured_sensitivities(
    checkpoint: Checkpoint,
    blocks: Blocks,
    windows: NDArray[np.int64],
    cache: Path,
    on_progress: Progress = silent,
) -> dict[str, float]:
    """Return the divergence, in nats, that each matrix alone causes in 4-bit blocks of 32, from the cache or measured.

    Where 32 does not divide a row, blocks are of 16, as Core ML has them; what can't be in blocks causes none.

    Args:
        checkpoint: what is run, in float32.
        blocks: Q4_0, or uint4 with zero points. Rounding minds what columns matter.
        windows: token ids [W, T].
        cache: the folder of the float32 reference.
        on_progress: receives the step `sensitivity`, in layers.

    Raises:
        CheckpointError: a tensor holds NaN or an infinity, or can't be read.
        CalibrationError: a rounded model's answers are not finite.
        BuildError: the disk is full.
    """
    architecture = checkpoint.architecture
    names = [name for name, shape in architecture.tensor_shapes().items() if len(shape) == 2]
    path = cache / sensitivity_file(checkpoint, blocks, windows)
    if (kept := _kept(path, len(names))) is not None:
        return dict(zip(names, kept, strict=True))
    states = WalkStates(path.with_name(f"{path.name}.states"))
    prepare_folder(cache)
    found = sensitivities(architecture, checkpoint.open_tensors(), windows, _ROUNDING[blocks], on_progress, states)
    for name, value in found.items():
        if not np.isfinite(value):
            states.remove()
            raise CalibrationError(
                f"{name} in 4-bit blocks makes the model's answers infinite or undefined",
                fix="check the training run, or download the checkpoint again; or build the recipe without a budget",
            )
    write_numbers(path, [np.asarray([found[name] for name in names], np.float32)])
    states.remove()
    kept = _kept(path, len(names))
    assert kept is not None
    return dict(zip(names, kept, strict=True))


def _kept(path: Path, count: int) -> list[float] | None:
    """Return the numbers of a file; None where it is missing, damaged or another's."""
    try:
        require_own_folder(path.parent)
        numbers = read_numbers(path)
    except OSError:
        return None
    return [float(f"{value:.{_DIGITS}g}") for value in numbers] if len(numbers) == count else None


def _in_q4_0(name: str, matrix: Floats, squares: Floats | None) -> Floats:
    if matrix.shape[1] % _Q4_0_BLOCK:
        return matrix  # stored in float16
    codes = encode(matrix, TYPES["Q4_0"], name=name, importance=usable(squares))
    return decode(codes, "Q4_0", matrix.shape[1])


def _in_uint4(name: str, matrix: Floats, squares: Floats | None) -> Floats:
    block = next((size for size in _UINT4_BLOCKS if matrix.shape[1] % size == 0), None)
    if block is None:
        return matrix
    counts = usable(squares)
    importance = np.ones(matrix.shape[1], np.float32) if counts is None else counts
    with scales_of(name):
        return affine_matrix(matrix, AffineGrid(block), MatrixStatistics(importance)).dequantized()


_ROUNDING: Mapping[Blocks, Rounding] = {"gguf": _in_q4_0, "affine": _in_uint4}
