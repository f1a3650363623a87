"""What an adapter does to a tensor, computed as peft's `merge_and_unload` does: in float32, then rounded once.

    linear      W + s B A                       A [r, in], B [out, r]
    embedding   W + round(s (B A)^T)            A [r, vocabulary], B [hidden, r]; peft rounds here before it adds
    DoRA        m / |W + s B A| (W + s B A)     m [out], the norm of each row
    tokens      rows of single tokens replaced

`round` is to the dtype that the base stores the tensor in, to nearest even; so is the result of each. A product is
computed in blocks of rows that depend on the tensor's height alone: the same row is the same bits, whoever asks for it.
Source: tuners/lora/layer.py, variants.py, dora.py and tuners/trainable_tokens/layer.py of peft 0.21.2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

BLOCK_ROWS = 1024  # a shorter last block is added to the one before it: BLAS sums a few rows in another order
Read = Callable[[str], NDArray[np.float32]]  # an adapter's tensor by its name in the file


@dataclass(frozen=True)
class LowRank:
    """A product of two thin matrices, named as in the adapter's file. `magnitude`: of DoRA."""

    first: str
    second: str
    scaling: float
    magnitude: str | None = None
    of_embedding: bool = False
    rounds_delta: bool = False


@dataclass(frozen=True)
class TokenRows:
    """Rows that replace those of single tokens: `ids` in the order of the rows of `values`."""

    ids: tuple[int, ...]
    values: str


@dataclass(frozen=True)
class TensorChange:
    """All that happens to one stored tensor. `dtype`: the base's, as safetensors spells it."""

    dtype: str
    low_rank: LowRank | None = None
    tokens: TokenRows | None = None

    def apply(self, rows: NDArray[np.float32], read: Read) -> None:
        """Change a whole tensor in place: [rows, ...] of the base's values."""
        for start, stop, change in self._blocks(len(rows), read):
            change(rows[start:stop], np.arange(start, stop))

    def apply_to(self, rows: NDArray[np.float32], ids: NDArray[np.int64], height: int, read: Read) -> None:
        """Change single rows in place: [N, columns] of a tensor of `height` rows, whose numbers are `ids`."""
        for start, stop, change in self._blocks(height, read):
            wanted = np.flatnonzero((ids >= start) & (ids < stop))
            if len(wanted):
                taken = rows[wanted]
                change(taken, ids[wanted])
                rows[wanted] = taken

    def _blocks(
        self, height: int, read: Read
    ) -> Iterator[tuple[int, int, Callable[[NDArray[Any], NDArray[Any]], None]]]:
        """Yield each block's first and last row, and what changes rows of it, given their numbers."""
        product = None if self.low_rank is None else _Product(self.low_rank, self.dtype, read)
        tokens = None if self.tokens is None else read(self.tokens.values)
        places = {} if self.tokens is None else {number: row for row, number in enumerate(self.tokens.ids)}
        for start, stop in blocks(height):

            def change(rows: NDArray[Any], numbers: NDArray[Any], start: int = start, stop: int = stop) -> None:
                if product is not None:
                    product.add(rows, numbers, start, stop)
                for row, number in enumerate(numbers.tolist() if places else ()):
                    if tokens is not None and number in places:
                        rows[row] = tokens[places[number]]
                rounded(rows, self.dtype)

            yield start, stop, change


class _Product:
    """A product whose factors are in memory; its rows are computed block by block."""

    def __init__(self, change: LowRank, dtype: str, read: Read) -> None:
        import torch

        self._change, self._dtype = change, dtype
        self._first, self._second = torch.from_numpy(read(change.first)), torch.from_numpy(read(change.second))
        self._magnitude = None if change.magnitude is None else torch.from_numpy(read(change.magnitude))

    def add(self, rows: NDArray[np.float32], numbers: NDArray[np.int64], start: int, stop: int) -> None:
        """Add to rows with these numbers, which lie in the block from `start` to `stop`."""
        import torch

        with torch.inference_mode():
            delta = self._delta(start, stop)
            if len(numbers) < stop - start:
                delta = delta[torch.from_numpy(numbers - start)]
            weights = torch.from_numpy(rows)
            weights += delta
            if self._magnitude is not None:
                norms = torch.linalg.norm(weights, dim=1)
                weights *= (self._magnitude[torch.from_numpy(numbers)] / norms).view(-1, 1)

    def _delta(self, start: int, stop: int) -> torch.Tensor:
        change = self._change
        if change.of_embedding:
            delta = (self._second @ self._first[:, start:stop]).T
        else:
            delta = self._second[start:stop] @ self._first
        delta *= change.scaling
        return _narrowed(delta, self._dtype).float() if change.of_embedding or change.rounds_delta else delta


def blocks(height: int) -> Iterator[tuple[int, int]]:
    """Yield first and last row of blocks of `BLOCK_ROWS`, the last one longer by the rest."""
    count = max(1, height // BLOCK_ROWS)
    for number in range(count):
        yield number * BLOCK_ROWS, height if number == count - 1 else (number + 1) * BLOCK_ROWS


def rounded(values: NDArray[np.float32], dtype: str) -> None:
    """Round in place to what `dtype` (as safetensors spells it) can represent; too large values become infinite."""
    import torch

    if dtype != "F32":
        tensor = torch.from_numpy(values)
        tensor.copy_(_narrowed(tensor, dtype))


def _narrowed(values: torch.Tensor, dtype: str) -> torch.Tensor:
    import torch

    narrow = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[dtype]
    return values.to(narrow)
