"""`measured_statistics`: one walk of a checkpoint over a calibration text, kept in the cache.

Its products are of bfloat16 numbers with sums in float32, on any processor (builders/reference/products.py).

The same checkpoint and text give the same statistics on one kind of processor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from builders.memory import return_large_blocks
from builders.quantization.calibration.moments import MomentFiles
from builders.quantization.calibration.statistics import Floats, MatrixStatistics, usable
from builders.quantization.fold import fold_factors
from builders.reference import FloatReference, token_digest
from builders.reference.logits import STATISTICS
from targets.architecture import Architecture
from targets.calibration import Calibration
from targets.errors import BuildError
from targets.progress import Progress, silent

if TYPE_CHECKING:
    from builders.checkpoint import Checkpoint


@dataclass(frozen=True)
class MeasuredStatistics:
    """Statistics of a checkpoint's matrices. Implements `CalibrationStatistics`.

    `squares`: mean squares of what the checkpoint's own matrices are multiplied with; `factors`: what is folded into
    them, by the same names. `moments`: for `full`. `text_ranges`: how large keys and values become over the text, where
    there is one; `cache_ranges`, see `CalibrationStatistics`: over special tokens, too, where `with_cache_ranges` has
    read them.
    """

    architecture: Architecture
    calibration: Calibration
    text_digest: str
    token_count: int
    squares: Mapping[str, Floats]
    factors: Mapping[str, Floats]
    moments: MomentFiles | None = None
    text_ranges: Floats | None = None
    cache_ranges: Floats | None = None

    @property
    def unusable(self) -> list[str]:
        """Names of matrices: see `CalibrationStatistics`."""
        return [name for name, squares in self.squares.items() if usable(squares) is None]

    def of(self, name: str) -> MatrixStatistics | None:
        """Return the statistics of a matrix after folding: see `CalibrationStatistics`.

        Raises:
            BuildError: moments can't be read any more.
        """
        squares, factors = self.squares.get(name), self.factors.get(name)
        if squares is not None and factors is not None:
            squares = squares / np.square(factors)
        if (counts := usable(squares)) is None:
            return None
        moments = self._moments_of(name)
        return MatrixStatistics(counts, moments if factors is None else _folded(moments, factors))

    def _moments_of(self, name: str) -> Sequence[Floats]:
        try:
            return () if self.moments is None else self.moments.of(name)
        except OSError as error:
            raise BuildError(
                f"what the calibration has measured can't be read any more: {error}",
                fix="run the same command again: what is missing or damaged is measured again",
            ) from error


def statistics_files(checkpoint: Checkpoint, calibration: Calibration, windows: NDArray[np.int64]) -> list[str]:
    """Return the names of the files that `measured_statistics` leaves in the cache, below its folder."""
    name = FloatReference(checkpoint).name_of(windows)
    if calibration == "light":
        return [f"{name}.{STATISTICS}"]
    return [f"{name}.moments/{file}" for file in MomentFiles(Path(), checkpoint.architecture).names]


def measured_statistics(
    checkpoint: Checkpoint,
    calibration: Calibration,
    windows: NDArray[np.int64],
    cache: Path,
    on_progress: Progress = silent,
) -> MeasuredStatistics:
    """Return the statistics of a checkpoint over windows of token ids [W, T], cached or measured.

    Args:
        checkpoint: what is run, layer by layer.
        calibration: `light` or `full`.
        windows: see `text.py`.
        cache: folder of the float32 reference and of moments; it keeps what was measured.
        on_progress: receives the steps `reference` (light) or `calibrate` (full), in layers.

    Raises:
        CheckpointError: a tensor holds NaN or an infinity, or can't be read.
        BuildError: the disk is full.
    """
    reference = FloatReference(checkpoint, cache, on_progress)
    moments = None
    if calibration == "full":
        return_large_blocks()  # here and while moments are read: a matrix's arrays are large, and many
        moments = MomentFiles(cache / f"{reference.name_of(windows)}.moments", checkpoint.architecture)
        squares, ranges = _made(moments, checkpoint, windows, on_progress)
    else:
        squares, ranges = reference.statistics(windows), reference.cache_ranges(windows)
    factors = fold_factors(checkpoint.architecture, squares)
    digest, count = token_digest(windows), windows.size
    return MeasuredStatistics(
        checkpoint.architecture, calibration, digest, count, squares, factors, moments, text_ranges=ranges
    )


def with_cache_ranges(
    statistics: MeasuredStatistics,
    checkpoint: Checkpoint,
    sequences: NDArray[np.int64],
    cache: Path,
    on_progress: Progress = silent,
) -> MeasuredStatistics:
    """Return statistics with `cache_ranges`: those of the text, and of special tokens in sequences [B, T] of ids.

    Without a text, as with an importance matrix, they are returned as they are. Raises as `measured_statistics`.
    """
    ranges = statistics.text_ranges
    if ranges is None:
        return statistics
    if sequences.size:
        ranges = np.maximum(ranges, FloatReference(checkpoint, cache, on_progress).cache_ranges(sequences))
    return replace(statistics, cache_ranges=ranges)


def _made(
    moments: MomentFiles, checkpoint: Checkpoint, windows: NDArray[np.int64], on_progress: Progress
) -> tuple[dict[str, Floats], Floats]:
    """Make what is missing, or all of it again where a file is damaged. Returns the mean squares and cache's ranges."""
    moments.make(checkpoint.open_tensors(), windows, on_progress)
    try:
        return moments.squares()
    except OSError:
        moments.remove()
        moments.make(checkpoint.open_tensors(), windows, on_progress)
        return moments.squares()


def _folded(moments: Sequence[Floats], factors: Floats) -> list[Floats]:
    """Return the moments of inputs divided by factors [columns], block by block."""
    folded, start = [], 0
    for block in moments:
        own = factors[start : start + len(block)]
        folded.append(block / own[:, None] / own[None, :])
        start += len(block)
    return folded
