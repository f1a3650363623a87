"""Hidden states of a walk that is not finished, in a file, so that one that is stopped goes on where it was.

FILE    a file of numbers (number_file.py): how many layers the states have been through, then the states
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from builders.reference.number_file import read_numbers, write_numbers
from registry.files.staging import disk_errors

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class WalkStates:
    """The file of one walk."""

    path: Path

    def save(self, layers: int, states: Iterable[Floats]) -> None:
        """Keep states that have been through so many layers. Raises `BuildError` where the disk is full."""
        number = np.full((1,), layers, np.float32)
        write_numbers(self.path, (number, *(some.reshape(-1) for some in states)))

    def load(self, size_after: Callable[[int], int]) -> tuple[int, Floats] | None:
        """Return the number of layers and a copy of the states, in one dimension; None where there are none.

        `size_after`: how many numbers the states after some layers are; a file of another size counts as none.
        """
        try:
            flat = read_numbers(self.path)
        except OSError:
            return None
        if not len(flat) or len(flat) != 1 + size_after(layers := int(flat[0])):
            return None
        return layers, flat[1:].copy()

    def remove(self) -> None:
        """Remove the file, if there is one."""
        with disk_errors(self.path):
            self.path.unlink(missing_ok=True)
