"""Second moments of what matrices are multiplied with, layer by layer, on disk: for `full` calibration.

    CACHE/CHECKPOINT-TOKENS-ARCHITECTURE-N-TOOLS.moments/
      LAYER.moments     of each matrix of the layer in the order of the checkpoint, and in `head.moments` of the head:
                        the lower triangles of its diagonal blocks, row after row; after those of a layer, how large its
                        keys and values become (`CacheRanges`)
      states            hidden states after the last layer that was finished, float32 [tokens, hidden]

Each is a file of numbers (reference/number_file.py). `states` also has the number of the layers it has been through: a
walk that was stopped goes on there, and it is removed when the last layer is done.

Size: mini 4 GB, medium 10 GB. Blocks are at most `WIDEST` columns: the Cholesky factorization of a block takes its
width cubed, and dropping the moments between blocks of 576 of 1,536 columns costs 1 to 3 % of a matrix's error.
"""

from __future__ import annotations

import itertools
import math
import shutil
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from builders.checkpoint import TensorSource
from builders.reference.cache_ranges import CacheRanges, ranges_shape
from builders.reference.forward import StatisticsWalk
from builders.reference.number_file import prepare_folder, read_numbers, write_numbers
from builders.reference.products import PART_COLUMNS, add_bfloat16_moments
from builders.reference.statistics import multiplied
from builders.reference.walk_states import WalkStates
from targets.architecture import Architecture
from targets.progress import Progress, Step

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float32]
WIDEST = 4608  # columns of a diagonal block
_STEP = 256  # blocks end where those of all formats do


def block_widths(columns: int) -> tuple[int, ...]:
    """Return the widths of the diagonal blocks of a matrix with so many columns: about equal, at most `WIDEST`."""
    if columns <= WIDEST:
        return (columns,)
    steps, count = -(-columns // _STEP), -(-columns // WIDEST)
    borders = [min(round(steps * number / count) * _STEP, columns) for number in range(count + 1)]
    return tuple(after - before for before, after in itertools.pairwise(borders))


def moment_bytes(architecture: Architecture) -> int:
    """Return the bytes of all files of a checkpoint's moments, without their digests."""
    shapes = architecture.tensor_shapes()
    return sum(2 * width * (width + 1) for name in multiplied(architecture) for width in block_widths(shapes[name][1]))


@dataclass(frozen=True)
class MomentFiles:
    """Reads and makes the files of one checkpoint and text. `folder`: theirs alone. Threads may share it."""

    folder: Path
    architecture: Architecture
    _kept: dict[str, dict[str, list[tuple[Floats, int]]]] = field(default_factory=dict)  # the file that was read last
    _reading: threading.Lock = field(default_factory=threading.Lock)  # builds in lockstep share this object

    def of(self, name: str) -> Sequence[Floats]:
        """Return the blocks of a matrix, by canonical name. Raises `OSError` where its file is missing or damaged."""
        file = self._file_of(name)
        with self._reading:
            if file not in self._kept:
                self._kept.clear()  # first, so as not to hold two
                self._kept[file], _ = self._read(file)
            triangles = self._kept[file][name]
        return [_whole(triangle, width) for triangle, width in triangles]

    @property
    def names(self) -> list[str]:
        """The names of all files, the head's last: without it, the walk is not done."""
        return [f"{file}.moments" for file in dict.fromkeys(map(self._file_of, multiplied(self.architecture)))]

    def squares(self) -> tuple[dict[str, Floats], Floats]:
        """Return the diagonals of all matrices' moments, and the ranges of the KV cache (`CacheRanges`).

        Raises `OSError` where a file is missing or damaged.
        """
        files = dict.fromkeys(self._file_of(name) for name in multiplied(self.architecture))
        found, ranges = dict[str, Floats](), list[Floats]()
        for file in files:
            matrices, of_layer = self._read(file)
            ranges.append(of_layer.copy())  # not a view, which would hold all of the file in memory
            for name, triangles in matrices.items():
                found[name] = np.concatenate([_diagonal(triangle, width) for triangle, width in triangles])
        return found, np.concatenate(ranges).reshape(ranges_shape(self.architecture))

    def remove(self) -> None:
        """Remove all files."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def make(self, source: TensorSource, tokens: NDArray[np.int64], on_progress: Progress) -> None:
        """Run the checkpoint over sequences [B, T] and write what is missing. An interrupted walk goes on."""
        kept = WalkStates(self.folder / "states")
        prepare_folder(self.folder)  # a run that was killed may have left hundreds of megabytes
        if (self.folder / "head.moments").exists():
            kept.remove()
            return
        size = tokens.size * self.architecture.hidden_size
        done, states = kept.load(lambda _: size) or (0, None)
        moments = _Moments()
        ranges = CacheRanges(self.architecture)
        shaped = None if states is None else states.reshape(*tokens.shape, -1)
        walk = StatisticsWalk(self.architecture, source, tokens, moments, observe_cache=ranges, states=shaped)
        count = self.architecture.layer_count
        for layer in range(done, count):
            on_progress(Step("calibrate", layer, count, "layers"))
            walk.run(layer)
            self._save(f"{layer:03d}", moments, ranges.of(layer))
            kept.save(layer + 1, [walk.states])
        walk.finish()
        self._save("head", moments)
        kept.remove()
        on_progress(Step("calibrate", count, count, "layers"))

    def _file_of(self, name: str) -> str:
        return f"{int(name.split('.')[2]):03d}" if name.startswith("model.layers.") else "head"

    def _names_in(self, file: str) -> list[str]:
        return [name for name in multiplied(self.architecture) if self._file_of(name) == file]

    def _read(self, file: str) -> tuple[dict[str, list[tuple[Floats, int]]], Floats]:
        """Read a file: triangles and widths of each matrix's blocks, by the matrix's name; and the cache's ranges."""
        flat = read_numbers(self.folder / f"{file}.moments")
        shapes, start = self.architecture.tensor_shapes(), 0
        found: dict[str, list[tuple[Floats, int]]] = {}
        for name in self._names_in(file):
            found[name] = []
            for width in block_widths(shapes[name][1]):
                end = start + width * (width + 1) // 2
                found[name].append((flat[start:end], width))
                start = end
        size = 0 if file == "head" else math.prod(ranges_shape(self.architecture)[1:])
        if start + size != len(flat):
            raise OSError(f"{self.folder / file}.moments: {len(flat)} numbers, not {start + size}")
        return found, flat[start:]

    def _save(self, file: str, moments: _Moments, *after: Floats) -> None:
        blocks = [block for name in self._names_in(file) for block in moments.taken(name)]
        rows = (block[row, : row + 1] for block in blocks for row in range(len(block)))
        write_numbers(self.folder / f"{file}.moments", itertools.chain(_joined(rows), after))


class _Moments:
    """Accumulates the mean of x xᵀ over calls, x rounded to bfloat16: an observer of the forward pass."""

    def __init__(self) -> None:
        self._sums: dict[str, list[Tensor]] = {}
        self._rows: dict[str, int] = {}

    def __call__(self, name: str, rows: Tensor) -> None:
        widths = block_widths(rows.shape[1])
        if name not in self._sums:
            self._sums[name] = [rows.new_zeros(width, width) for width in widths]
            self._rows[name] = 0
        for part in rows.split(PART_COLUMNS):
            for total, columns in zip(self._sums[name], part.split(widths, dim=1), strict=True):
                add_bfloat16_moments(total, columns)
        self._rows[name] += len(rows)

    def taken(self, name: str) -> list[Floats]:
        """Return a matrix's blocks, and forget them. Their lower triangles count."""
        count = self._rows.pop(name)
        return [np.asarray((total / count).numpy()) for total in self._sums.pop(name)]


def _joined(rows: Iterator[Floats]) -> Iterator[Floats]:
    """Join short rows into pieces of at least a mebibyte: fewer writes."""
    some: list[Floats] = []
    size = 0
    for row in rows:
        some.append(row)
        size += row.nbytes
        if size >= 1 << 20:
            yield np.concatenate(some)
            some, size = [], 0
    if some:
        yield np.concatenate(some)


def _diagonal(triangle: Floats, width: int) -> Floats:
    """Return the diagonal of a lower triangle, row after row."""
    rows = np.arange(width)
    return triangle[rows * (rows + 3) // 2]


def _whole(triangle: Floats, width: int) -> Floats:
    """Return the symmetric matrix of a lower triangle, row after row."""
    block = np.empty((width, width), np.float32)
    start = 0
    for row in range(width):
        block[row, : row + 1] = block[: row + 1, row] = triangle[start : start + row + 1]
        start += row + 1
    return block
