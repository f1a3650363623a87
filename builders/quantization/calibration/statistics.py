"""What a matrix is multiplied with: mean squares of its input columns, and for `full` all second moments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from targets.calibration import Calibration

Floats = NDArray[np.float32]

MOST_SQUARE = 1e30  # no model reaches it; with more, float32 sums of weighted errors overflow, and NaN is stored
_LEAST = np.float32(1e-6)  # of the mean: a column without input in one text has some in another
_SHOWN = 8  # names in a note


@dataclass(frozen=True)
class MatrixStatistics:
    """What one matrix [rows, columns] is multiplied with: inputs x [columns].

    Attributes:
        squares: mean of x², float32 [columns], as `usable` returns it: how much each column's error counts.
        moments: mean of x xᵀ in diagonal blocks, float32 [width, width] each, whose widths add up to the columns; one
            block unless the matrix is wide. Empty for `light`. Twice this is GPTQ's Hessian.
    """

    squares: Floats
    moments: Sequence[Floats] = ()


def have_finite_sums(squares: Floats) -> bool:
    """Return whether mean squares are finite, and small enough to count errors by: see `MOST_SQUARE`."""
    return bool((squares <= MOST_SQUARE).all())  # NaN is not


def usable(squares: Floats | None) -> Floats | None:
    """Return mean squares with a least value for columns without input; None where nothing of use is known."""
    if squares is None or not have_finite_sums(squares) or not squares.any():
        return None
    return np.maximum(squares, _LEAST * squares.mean())


def unusable_note(names: Sequence[str]) -> str:
    """Return what people read about matrices of which nothing of use is known, at least one."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (
        "rounded without calibration, as what they are multiplied with is all zero, or not finite, on its text:"
        f" {', '.join(names[:_SHOWN])}{more}"
    )


class CalibrationStatistics(Protocol):
    """The statistics of a checkpoint's matrices. Asked for about in the checkpoint's order."""

    @property
    def calibration(self) -> Calibration:
        """`light` or `full`."""
        ...

    @property
    def text_digest(self) -> str:
        """`sha256:<hex>` of the calibration's token ids."""
        ...

    @property
    def token_count(self) -> int:
        """How many tokens were read."""
        ...

    @property
    def factors(self) -> Mapping[str, Floats]:
        """What is folded into matrices (fold.py), by their canonical names."""
        ...

    @property
    def cache_ranges(self) -> Floats | None:
        """How large keys and values become (`CacheRanges`), [layers, numbers]; None where that is not known."""
        ...

    @property
    def unusable(self) -> Sequence[str]:
        """Canonical names of the matrices whose inputs were all zero, or not finite: they are rounded without any."""
        ...

    def of(self, name: str) -> MatrixStatistics | None:
        """Return the statistics of a matrix by its canonical name; None where nothing of use is known.

        They are those of the folded matrix (fold.py), which is what is stored.
        """
        ...
