"""`TensorSource`, what converters and the float32 reference read weights through, and the one that reads the shards.

Sources are composed: `lockstep.py` wraps one for each of several builds that share their reads. To measure where
the time goes, hand a `Phases` to the source that reads the files: then waiting for another build is not counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from builders.checkpoint import shards
from builders.checkpoint.rows import in_canonical_order
from builders.phases import Phases
from targets.architecture import Architecture
from targets.errors import CheckpointError
from targets.layouts import sources_of

_PIECE_ELEMENTS = 1 << 17


class TensorSource(Protocol):
    """A checkpoint's weights, read when asked for. Values are float32 and finite.

    Laws: the same name returns the same values each time; `tensor` and `stored_tensor` are the same where a tensor is
    stored as the architecture lists it. Arrays may be shared with other readers: don't write to them.
    """

    def tensor(self, name: str) -> NDArray[np.float32]:
        """Read one tensor, by its canonical name (`Architecture.tensor_shapes`), in the architecture's shape.

        Raises:
            CheckpointError: it holds NaN or an infinity, or can't be read.
        """
        ...

    def stored_tensor(self, name: str) -> NDArray[np.float32]:
        """Read one tensor by the checkpoint's own name, in its stored shape and order of rows.

        Raises:
            CheckpointError: it holds NaN or an infinity, or can't be read.
        """
        ...

    def rows(self, name: str, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Read rows of a stored matrix, such as the embedding: [*ids.shape, columns].

        Raises:
            CheckpointError: one of them holds NaN or an infinity.
        """
        ...


class Rows(Protocol):
    """A matrix whose rows are read when they are sliced: an array is one. float32, or bfloat16 as its uint16 bits."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and columns."""
        ...

    def __getitem__(self, rows: slice, /) -> NDArray[Any]:
        """Return some of the rows."""
        ...


@runtime_checkable
class MatrixSource(Protocol):
    """A `TensorSource` that need not have a whole matrix in memory."""

    def matrix(self, name: str) -> AbstractContextManager[Rows]:
        """Open a matrix by its canonical name, to be read while the block lasts.

        bfloat16 and float32 come as the file has them, and are not looked at: they may hold NaN and infinities. The
        same matrix read by `tensor` is refused then.

        Raises:
            CheckpointError: from slices too, where the file can't be read.
        """
        ...


def open_matrix(source: TensorSource, name: str) -> AbstractContextManager[Rows]:
    """Open a matrix by its canonical name as a `MatrixSource` does; of another source it is what `tensor` returns."""
    return source.matrix(name) if isinstance(source, MatrixSource) else nullcontext(source.tensor(name))


class ShardSource:
    """Reads a checkpoint's safetensors files. Implements `TensorSource` and `MatrixSource`; calls return new arrays.

    Memory: the tensor that is returned; pages of the files are released once they have been read.
    """

    def __init__(
        self,
        architecture: Architecture,
        stored: Mapping[str, shards.StoredTensor],
        *,
        past_cache: bool = False,
        phases: Phases | None = None,
    ) -> None:
        self._architecture = architecture
        self._mapped = shards.MappedTensors(stored, past_cache=past_cache)
        self._phases = phases or Phases()

    def tensor(self, name: str) -> NDArray[np.float32]:
        """Read one tensor by its canonical name: see `TensorSource`."""
        shape = self._architecture.tensor_shapes()[name]
        sources = sources_of(self._architecture, name, shape)
        values = np.empty(shape, np.float32)
        start = 0
        for part, (height, *_) in sources.parts:
            rows = values[start : start + height]
            if sources.order == "as stored":
                self._read(part, rows)
            else:
                stored = self.stored_tensor(part)
                for canonical, taken in in_canonical_order(rows, stored, sources.order, self._architecture):
                    canonical[...] = taken
            start += height
        return values

    @contextmanager
    def matrix(self, name: str) -> Iterator[Rows]:
        """Open a matrix: see `MatrixSource`. Where its rows are not the file's, it is read as a whole."""
        sources = sources_of(self._architecture, name, self._architecture.tensor_shapes()[name])
        stored, _ = sources.parts[0]
        if len(sources.parts) > 1 or sources.order != "as stored" or not self._mapped.has_words(stored):
            yield self.tensor(name)
            return
        try:
            yield shards.MappedRows(self._mapped, stored)
        finally:
            self._mapped.release(stored)

    def stored_tensor(self, name: str) -> NDArray[np.float32]:
        """Read one tensor by the checkpoint's own name: see `TensorSource`."""
        values = np.empty(self._mapped.entries[name].shape, np.float32)
        self._read(name, values)
        return values

    def rows(self, name: str, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Read rows of a stored matrix: see `TensorSource`."""
        with self._phases.phase("read"):
            taken = self._mapped.stored(name)[ids]
            values = np.empty(taken.shape, np.float32)
            self._widen(taken.reshape(-1), name, values.reshape(-1))
            self._mapped.release(name)
        return values

    def _read(self, name: str, out: NDArray[np.float32]) -> None:
        """Read one stored tensor into a contiguous array of its shape, and release its pages."""
        flat, start = out.reshape(-1), 0
        with self._phases.phase("read", self._mapped.entries[name].bytes):
            for piece in self._mapped.pieces(name):
                self._widen(piece, name, flat[start : start + len(piece)])
                start += len(piece)
            self._mapped.release(name)

    def _widen(self, stored: NDArray[Any], name: str, out: NDArray[np.float32]) -> None:
        """Widen flat elements of a stored tensor, and check them while they are in the processor's cache."""
        entry, step = self._mapped.entries[name], _PIECE_ELEMENTS
        for start in range(0, len(stored), step):
            piece = out[start : start + step]
            shards.widen(stored[start : start + step], entry.dtype, piece)
            if not np.isfinite(piece).all():
                raise CheckpointError(
                    f"{entry.file.parent}: tensor {name!r} holds {piece[~np.isfinite(piece)][0]}",
                    fix="the training run or the download is damaged: download it again, or use another checkpoint",
                )
