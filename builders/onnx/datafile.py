"""`model.onnx.data`: the arrays that the graph points to, written one at a time at page borders.

Layout (source: onnx.proto, TensorProto.external_data): a tensor of the graph names file, offset and length. Elements
are raw, little-endian, row-major. Two tensors may point to the same bytes: that is how one tied matrix is both a table
of rows and a product's weight.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from targets.storage.onnx import ALIGNMENT

DATA_NAME = "model.onnx.data"


class DataFile:
    """Writes arrays and gives the tensors that point to them."""

    def __init__(self, folder: Path) -> None:
        self._stream = (folder / DATA_NAME).open("wb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()

    def write(self, name: str, array: NDArray[Any]) -> Any:
        """Append an array. Gives a TensorProto of that name."""
        import onnx

        position = self._stream.tell()
        offset = position + -position % ALIGNMENT
        self._stream.write(b"\0" * (offset - position))
        stored = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        self._stream.write(stored.data)
        tensor = onnx.TensorProto(name=name, dims=array.shape)
        tensor.data_type = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", DATA_NAME), ("offset", offset), ("length", array.nbytes)):
            tensor.external_data.add(key=key, value=str(value))
        return tensor


def another_view(tensor: Any, name: str, shape: tuple[int, ...]) -> Any:
    """Give a tensor of another name and shape over the same bytes."""
    import onnx

    view = onnx.TensorProto()
    view.CopyFrom(tensor)
    view.name = name
    del view.dims[:]
    view.dims.extend(shape)
    return view
