"""What must be measured of a checkpoint before bundles are built: one walk over its layers for each.

A walk is the same for all recipes that need it, so its result is measured once and shared: on one machine in the cache,
between machines in the store (`builders/matrix/calibrations.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from targets.calibration import Calibration
from targets.recipes import Format, Recipe

Blocks = Literal["gguf", "affine"]  # Q4_0; uint4 with zero points, of ONNX and Core ML


@dataclass(frozen=True)
class CalibrationWalk:
    """The statistics of a level (`light`, `full`), or something else over text of `light`.

    That is sensitivities to 4-bit blocks, or the ranges of keys and values where special tokens stand.
    """

    level: Calibration
    blocks: Blocks | None = None
    special_tokens: bool = False

    @property
    def label(self) -> str:
        """Its name in jobs and records: `light`, `full`, `sensitivities-gguf`, `special-tokens`."""
        if self.special_tokens:
            return "special-tokens"
        return self.level if self.blocks is None else f"sensitivities-{self.blocks}"


def blocks_of(format_: Format) -> Blocks:
    """Return the 4-bit blocks in which a format's sensitivities are measured."""
    return "gguf" if format_ == "gguf" else "affine"


def walks_of(recipe: Recipe, level: Calibration) -> tuple[CalibrationWalk, ...]:
    """Return what must be measured before a build of a recipe, calibrated by a text.

    Special tokens are read in the build itself: few recipes need them, and they take a fraction of `light`.
    """
    if level == "none":
        return ()
    statistics = CalibrationWalk(level)
    if recipe.budget is None:
        return (statistics,)
    return statistics, CalibrationWalk("light", blocks_of(recipe.format))


class SharedWalks(Protocol):
    """Where machines share what walks have measured: files, by their names below the folder of the cache."""

    def fetch(self, walk: CalibrationWalk, folder: Path, names: Sequence[str]) -> bool:
        """Put the files that count into the folder. Returns False where no machine has recorded them."""
        ...

    def add(self, walk: CalibrationWalk, folder: Path, names: Sequence[str], seconds: float | None) -> bool:
        """Record the folder's files where no machine has. Returns False where other files count than those here.

        `seconds`: what the whole walk took; None where some of it was there before.
        """
        ...


class NotShared:
    """Implements `SharedWalks`: what is measured stays on this machine."""

    def fetch(self, walk: CalibrationWalk, folder: Path, names: Sequence[str]) -> bool:  # noqa: ARG002
        """Do nothing: no other machine is asked."""
        return False

    def add(self, walk: CalibrationWalk, folder: Path, names: Sequence[str], seconds: float | None) -> bool:  # noqa: ARG002
        """Do nothing: what is here counts."""
        return True
