"""Writing a safetensors file tensor by tensor: the library's own writer needs them all in memory.

Format: see `shards.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from builders.checkpoint.shards import ITEM_BYTES
from registry.files.large_file import LargeFile

_ALIGNMENT = 8  # of the header, by padding it with spaces, as the safetensors library does


@dataclass(frozen=True)
class TensorToWrite:
    """One tensor: `dtype` as safetensors spells it; `pieces` returns its elements in order, in the stored dtype."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    pieces: Callable[[], Iterable[NDArray[Any]]]

    @property
    def bytes(self) -> int:
        """Length of its data."""
        return int(np.prod(self.shape, dtype=np.int64)) * ITEM_BYTES[self.dtype]


def _unreported(_done_bytes: int, _total_bytes: int) -> None:
    """Report nothing."""


def write_safetensors(
    path: Path, tensors: Sequence[TensorToWrite], report: Callable[[int, int], None] = _unreported
) -> None:
    """Write one file. Memory: one piece at a time. `report` gets the bytes of tensors written so far, and of all.

    Raises:
        OSError: the disk is full.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for tensor in tensors:
        stop = position + tensor.bytes
        header[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [position, stop]}
        position = stop
    raw = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    raw += b" " * (-len(raw) % _ALIGNMENT)
    with LargeFile(path) as file:
        file.write(len(raw).to_bytes(8, "little"))
        file.write(raw)
        done = 0
        for tensor in tensors:
            report(done, position)
            for piece in tensor.pieces():
                file.write(np.ascontiguousarray(piece).data)
            done += tensor.bytes
        report(position, position)
