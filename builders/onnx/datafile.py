"""`model.onnx.data`: the arrays that the graph points to, each at the beginning of a page.

Layout (source: onnx.proto, TensorProto.external_data): a tensor of the graph names file, offset and length. Elements
are raw, little-endian, row-major. Two tensors may point to the same bytes: so one tied matrix is both a table of rows
and a product's weight.

Offsets come first and bytes later: while the graph is written arrays are promised, which fixes all sizes; then two
threads compute them, a few ahead of the one that writes them in order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from builders.artifact.array_file import ArrayFile
from builders.artifact.prefetch import prefetched
from builders.conversion import BuildRequest
from registry.bundle.chunks import FileDigest
from targets.storage.onnx import ALIGNMENT, ArrayShape

DATA_NAME = "model.onnx.data"
THREADS = 2  # each holds one tensor of the checkpoint

Make = Callable[[], Sequence[NDArray[Any]]]


@dataclass(frozen=True)
class _Promise:
    """Arrays that are computed together: their dtypes and shapes, and the call that computes them."""

    arrays: tuple[ArrayShape, ...]
    make: Make


class DataFile:
    """Assigns arrays their offsets, and later writes them all."""

    def __init__(self) -> None:
        self.bytes = 0
        self._promises: list[_Promise] = []

    def promise(self, name: str, arrays: Sequence[ArrayShape], make: Make) -> list[Any]:
        """Assign the next offsets to arrays that `make` will return in this order. Returns a TensorProto for each."""
        tensors = []
        for array in arrays:
            offset = self.bytes + -self.bytes % ALIGNMENT
            tensors.append(_tensor(f"{name}.{array.part}" if array.part else name, array, offset))
            self.bytes = offset + array.bytes
        self._promises.append(_Promise(tuple(arrays), make))
        return tensors

    def write(self, folder: Path, request: BuildRequest) -> FileDigest:
        """Compute and write everything that was promised, and return the file's digest. What `make` raises ends it."""
        written = 0
        makes = (partial(_fulfil, promise) for promise in self._promises)
        with (
            ArrayFile(folder / DATA_NAME, ALIGNMENT, request.phases) as file,
            closing(prefetched(makes, THREADS)) as made,
        ):
            for arrays in made:
                request.report_written(written, self.bytes)
                file.append(arrays)
                written += sum(array.nbytes for array in arrays)
        request.report_written(self.bytes, self.bytes)
        return file.digest


def _fulfil(promise: _Promise) -> Sequence[NDArray[Any]]:
    made = promise.make()
    for promised, array in zip(promise.arrays, made, strict=True):
        if (array.dtype, array.shape) != (np.dtype(promised.dtype), promised.shape):
            raise ValueError(f"{array.dtype} {array.shape} where {promised} was promised")
    return made


def _tensor(name: str, array: ArrayShape, offset: int) -> Any:
    import onnx

    tensor = onnx.TensorProto(name=name, dims=array.shape)
    tensor.data_type = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(array.dtype))
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", DATA_NAME), ("offset", offset), ("length", array.bytes)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def another_view(tensor: Any, name: str, shape: tuple[int, ...]) -> Any:
    """Return a tensor with another name and shape over the same bytes."""
    import onnx

    view = onnx.TensorProto()
    view.CopyFrom(tensor)
    view.name = name
    del view.dims[:]
    view.dims.extend(shape)
    return view
