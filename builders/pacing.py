"""Several builds of one checkpoint at the same time, side by side through its tensors, so that it is read once.

Each build reads on its own; what keeps them to one read is that none runs far ahead. A tensor that the first one has
read is in the system's page cache when the others come to it. The slowest never waits, so there is no standstill,
whatever order each one reads in.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from builders.checkpoint import Checkpoint
from builders.checkpoint.shards import MappedTensors
from targets.layouts import stored_shapes

LEAD_BYTES = 2 << 30  # that a build may be ahead of the slowest: what the page cache must hold


class RunEndedError(Exception):
    """Another build ended the run: raised in a build's next read, caught by who started it."""


class Pace:
    """How far each of several readers is, in bytes of the checkpoint."""

    def __init__(self, readers: int, lead_bytes: int = LEAD_BYTES) -> None:
        self._marks: dict[int, int] = dict.fromkeys(range(readers), 0)
        self._lead_bytes = lead_bytes
        self._cancelled = False
        self._moved = threading.Condition()

    def reach(self, reader: int, position: int) -> None:
        """Say that a reader is about to read at `position`; wait while it is too far ahead of the slowest.

        Raises:
            RunEndedError: the run was ended.
        """
        with self._moved:
            self._moved.wait_for(lambda: self._cancelled or self._may_go_on(reader))
            if self._cancelled:
                raise RunEndedError
            self._marks[reader] = max(self._marks[reader], position)
            self._moved.notify_all()

    def leave(self, reader: int) -> None:
        """Take a reader out that needs no more: nobody waits for it."""
        with self._moved:
            self._marks.pop(reader, None)
            self._moved.notify_all()

    def cancel(self) -> None:
        """Make every reader's next read raise."""
        with self._moved:
            self._cancelled = True
            self._moved.notify_all()

    def _may_go_on(self, reader: int) -> bool:
        return self._marks[reader] - min(self._marks.values()) <= self._lead_bytes


class PacedTensors(MappedTensors):
    """A checkpoint's tensors for one of several readers. `positions`: of each tensor in the order of the walk."""

    def __init__(self, tensors: MappedTensors, positions: dict[str, int], pace: Pace, reader: int) -> None:
        super().__init__(tensors.entries)
        self._pace = pace
        self._reader = reader
        self._positions = positions

    def stored(self, name: str) -> NDArray[Any]:
        """Give a view, as `MappedTensors` does, when the others are not too far behind. Raises `RunEndedError`."""
        self._pace.reach(self._reader, self._positions.get(name, 0))
        return super().stored(name)


def paced(checkpoint: Checkpoint, pace: Pace, reader: int) -> Checkpoint:
    """Give a view of a checkpoint that keeps one reader to the pace. It has mappings of its own."""
    positions, position = {}, 0
    for name in stored_shapes(checkpoint.architecture):
        positions[name] = position
        entry = checkpoint.tensors.entries[name]
        position += entry.stop - entry.start
    return replace(checkpoint, tensors=PacedTensors(checkpoint.tensors, positions, pace, reader))
