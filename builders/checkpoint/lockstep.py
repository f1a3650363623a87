"""Several builds read one checkpoint at the same time, in lockstep, so that each tensor is read once.

Each build reads on its own thread, and none runs far ahead of the slowest. What one build has read, and widened to
float32, is kept for the others for as long as they may be behind. The slowest build never waits, so there is no
deadlock, whatever order each one reads in.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from builders.checkpoint.checkpoint import Checkpoint
from builders.checkpoint.sources import Rows, TensorSource, open_matrix
from targets.architecture import Architecture
from targets.layouts import sources_of, stored_shapes

LEAD_BYTES = 256 << 20  # stored bytes that a reader may be ahead of the slowest
KEPT_BYTES = 1 << 30  # of float32: somewhat more than a lead in bfloat16


class ReadCancelledError(Exception):
    """The builds in lockstep were cancelled: raised by a build's next read or look, caught where they were started."""


class Lockstep:
    """How far each of several readers has got, in bytes of the checkpoint."""

    def __init__(self, readers: int, lead_bytes: int) -> None:
        self._positions: dict[int, int] = dict.fromkeys(range(readers), 0)
        self._lead_bytes = lead_bytes
        self._cancelled = False
        self._changed = threading.Condition()

    def advance(self, reader: int, position: int) -> None:
        """Record that a reader is about to read at `position`; first wait while it is too far ahead of the slowest.

        Raises:
            ReadCancelledError: the builds were cancelled.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._cancelled or self._is_near_slowest(reader))
            if self._cancelled:
                raise ReadCancelledError
            self._positions[reader] = max(self._positions[reader], position)
            self._changed.notify_all()

    def leave(self, reader: int) -> None:
        """Remove a reader that has finished: the others no longer wait for it."""
        with self._changed:
            self._positions.pop(reader, None)
            self._changed.notify_all()

    def cancel(self) -> None:
        """Make every reader's next read raise `ReadCancelledError`."""
        with self._changed:
            self._cancelled = True
            self._changed.notify_all()

    def require_running(self) -> None:
        """Raise `ReadCancelledError` where the builds were cancelled."""
        with self._changed:
            if self._cancelled:
                raise ReadCancelledError

    def _is_near_slowest(self, reader: int) -> bool:
        return self._positions[reader] - min(self._positions.values()) <= self._lead_bytes


class SharedReads:
    """Tensors that one of several readers has read, kept until each of the others has taken them too."""

    def __init__(self, readers: int, kept_bytes: int = KEPT_BYTES) -> None:
        self.readers = readers
        self._kept_bytes = kept_bytes
        self._lock = threading.Lock()
        self._kept: dict[tuple[str, ...], tuple[Future[NDArray[np.float32]], int]] = {}  # with how many have taken it

    def take(self, key: tuple[str, ...], read: Callable[[], NDArray[np.float32]]) -> NDArray[np.float32]:
        """Return what `read` returns, read-only. What it raises is raised for each reader."""
        with self._lock:
            future, taken = self._kept.pop(key, (None, 0))
            first = future is None
            future = future or Future()
            if taken + 1 < self.readers:
                self._kept[key] = (future, taken + 1)
        if first:
            try:
                values = read()
                values.flags.writeable = False
                future.set_result(values)
            except BaseException as error:
                future.set_exception(error)
                raise
            self._drop_oldest()
        return future.result()

    def _drop_oldest(self) -> None:
        """Keep no more than `kept_bytes`: a reader that comes late reads the tensor again."""
        with self._lock:
            done = [(key, future) for key, (future, _) in self._kept.items() if future.done()]
            total = sum(future.result().nbytes for _, future in done if future.exception() is None)
            for key, future in done:
                if total <= self._kept_bytes:
                    return
                del self._kept[key]
                total -= 0 if future.exception() else future.result().nbytes


class LockstepSource:
    """One reader's view of a checkpoint that several read in lockstep. Implements `TensorSource` and `MatrixSource`.

    Wraps the reader's own source. Arrays are shared by all readers, and read-only.
    """

    def __init__(
        self,
        source: TensorSource,
        reader: int,
        architecture: Architecture,
        positions: Mapping[str, int],
        lockstep: Lockstep,
        shared: SharedReads,
    ) -> None:
        self._source = source
        self._reader = reader
        self._architecture = architecture
        self._positions = positions  # of each stored tensor in the order of the walk, in bytes
        self._lockstep = lockstep
        self._shared = shared

    def tensor(self, name: str) -> NDArray[np.float32]:
        """Read one tensor by its canonical name, after waiting for readers that are too far behind.

        Raises:
            CheckpointError: as `TensorSource` says.
            ReadCancelledError: the builds were cancelled.
        """
        parts = self._parts(name)
        self._lockstep.advance(self._reader, self._positions[parts[0]])
        return self._shared.take(parts, lambda: self._source.tensor(name))

    @contextmanager
    def matrix(self, name: str) -> Iterator[Rows]:
        """Open a matrix: see `MatrixSource`. What several readers share is read as a whole, and kept for them."""
        if self._shared.readers > 1:
            yield self.tensor(name)
            return
        self._lockstep.advance(self._reader, self._positions[self._parts(name)[0]])
        with open_matrix(self._source, name) as matrix:
            yield matrix

    def stored_tensor(self, name: str) -> NDArray[np.float32]:
        """Read one tensor by its stored name; otherwise as `tensor`."""
        self._lockstep.advance(self._reader, self._positions[name])
        return self._shared.take((name,), lambda: self._source.stored_tensor(name))

    def rows(self, name: str, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Read rows of a stored matrix without waiting: they are few, and each reader needs different ones."""
        return self._source.rows(name, ids)

    def leave(self) -> None:
        """Stop reading: the others no longer wait for this reader."""
        self._lockstep.leave(self._reader)

    def require_running(self) -> None:
        """Look whether the builds go on, where nothing is left to read. Raises `ReadCancelledError`."""
        self._lockstep.require_running()

    def cancel_all(self) -> None:
        """Make the next read of every reader raise `ReadCancelledError`."""
        self._lockstep.cancel()

    def _parts(self, name: str) -> tuple[str, ...]:
        """Return what identifies a read: the stored names, and the order of rows where that is not the stored one."""
        sources = sources_of(self._architecture, name, self._architecture.tensor_shapes()[name])
        parts = tuple(stored for stored, _ in sources.parts)
        return parts if sources.order == "as stored" else (*parts, sources.order)


def in_lockstep(
    checkpoint: Checkpoint, sources: Sequence[TensorSource], lead_bytes: int = LEAD_BYTES
) -> list[LockstepSource]:
    """Wrap one source a reader, all of `checkpoint`, so that the readers read each tensor once."""
    positions, position = {}, 0
    for name in stored_shapes(checkpoint.architecture):
        positions[name] = position
        position += checkpoint.stored_tensors[name].bytes
    lockstep, shared = Lockstep(len(sources), lead_bytes), SharedReads(len(sources))
    return [
        LockstepSource(source, reader, checkpoint.architecture, positions, lockstep, shared)
        for reader, source in enumerate(sources)
    ]
