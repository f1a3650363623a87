"""Several builds of one checkpoint at the same time, side by side through its tensors, so that it is read once.

Each build reads on its own, and none runs far ahead. What one has read, and widened to float32, is kept for the others
for as long as the lead is. The slowest never waits, so there is no standstill, whatever order each one reads in.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from builders.checkpoint import Checkpoint
from targets.layouts import sources_of, stored_shapes

LEAD_BYTES = 256 << 20  # that a build may be ahead of the slowest, as stored
KEPT_BYTES = 1 << 30  # of float32: somewhat more than a lead in bfloat16


class RunEndedError(Exception):
    """Another build ended the run: raised in a build's next read, caught by who started it."""


class Pace:
    """How far each of several readers is, in bytes of the checkpoint."""

    def __init__(self, readers: int, lead_bytes: int) -> None:
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


class SharedReads:
    """Tensors that one of several readers has read, kept until each of the others has taken them too."""

    def __init__(self, readers: int, kept_bytes: int = KEPT_BYTES) -> None:
        self._readers = readers
        self._kept_bytes = kept_bytes
        self._lock = threading.Lock()
        self._kept: dict[tuple[str, ...], tuple[Future[NDArray[np.float32]], int]] = {}  # with how many have taken it

    def take(self, key: tuple[str, ...], read: Callable[[], NDArray[np.float32]]) -> NDArray[np.float32]:
        """Give what `read` gives, read-only. Raises what it raises, for each reader."""
        with self._lock:
            future, taken = self._kept.pop(key, (None, 0))
            first = future is None
            future = future or Future()
            if taken + 1 < self._readers:
                self._kept[key] = (future, taken + 1)
        if first:
            try:
                values = read()
                values.flags.writeable = False
                future.set_result(values)
            except BaseException as error:
                future.set_exception(error)
                raise
            self._forget_oldest()
        return future.result()

    def _forget_oldest(self) -> None:
        """Keep no more than is allowed: who comes late reads again."""
        with self._lock:
            done = [(key, future) for key, (future, _) in self._kept.items() if future.done()]
            total = sum(future.result().nbytes for _, future in done if future.exception() is None)
            for key, future in done:
                if total <= self._kept_bytes:
                    return
                del self._kept[key]
                total -= 0 if future.exception() else future.result().nbytes


@dataclass(frozen=True)
class PacedCheckpoint(Checkpoint):
    """A checkpoint as one of several readers sees it. Arrays that it gives are shared: they can't be written to."""

    reader: int = field(kw_only=True)
    positions: Mapping[str, int] = field(kw_only=True)  # of each stored tensor in the order of the walk, in bytes
    pace: Pace = field(kw_only=True)
    shared: SharedReads = field(kw_only=True)

    def tensor(self, name: str) -> NDArray[np.float32]:
        """Read one tensor, as `Checkpoint` does, when the others are not too far behind. Raises `RunEndedError`."""
        parts = self._parts(name)
        self.pace.reach(self.reader, self.positions[parts[0]])
        return self.shared.take(parts, lambda: Checkpoint.tensor(self, name))

    def stored_tensor(self, name: str) -> NDArray[np.float32]:
        """Read one tensor by its stored name; otherwise as `tensor`."""
        self.pace.reach(self.reader, self.positions[name])
        return self.shared.take((name,), lambda: Checkpoint.stored_tensor(self, name))

    def _parts(self, name: str) -> tuple[str, ...]:
        """Name what makes up a canonical tensor: where it is stored as it is, that is its own name."""
        sources = sources_of(self.architecture, name, self.architecture.tensor_shapes()[name])
        parts = tuple(stored for stored, _ in sources.parts)
        return parts if sources.order == "as stored" else (*parts, sources.order)


def paced(checkpoint: Checkpoint, readers: int, lead_bytes: int = LEAD_BYTES) -> list[PacedCheckpoint]:
    """Give a view of a checkpoint for each of several readers. Each has mappings of its own."""
    positions, position = {}, 0
    for name in stored_shapes(checkpoint.architecture):
        positions[name] = position
        position += checkpoint.tensors.entries[name].stop - checkpoint.tensors.entries[name].start
    pace, shared = Pace(readers, lead_bytes), SharedReads(readers)
    inherited = {each.name: getattr(checkpoint, each.name) for each in dataclasses.fields(checkpoint)}
    return [
        PacedCheckpoint(
            **inherited | {"tensors": checkpoint.tensors.with_own_mappings()},
            reader=reader,
            positions=positions,
            pace=pace,
            shared=shared,
        )
        for reader in range(readers)
    ]
