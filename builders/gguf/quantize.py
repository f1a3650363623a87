"""ggml's own quantizers, called in C from the library in llama-cpp-python: the same bytes as llama-quantize."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from targets.errors import BuildError, CheckpointError
from targets.storage.gguf import BlockType

_FLOAT16_LIMIT = 65504.0
_SLICE_ROWS = 256  # rows a thread takes at a time: C code runs without Python's lock


def encode(
    values: NDArray[np.float32], kind: BlockType, *, name: str, importance: NDArray[np.float32] | None = None
) -> NDArray[np.uint8]:
    """Store float32 values, [rows, columns] or [columns], in a ggml type. Gives the bytes, one row after the other.

    Args:
        values: columns must be a multiple of the type's block length.
        kind: the ggml type.
        name: of the tensor, for errors.
        importance: weight of each column in the quantization error, [columns]; equal by default.

    Raises:
        CheckpointError: a value is too large for float16.
    """
    if kind.name == "F32":
        return values.reshape(-1).view(np.uint8)
    if kind.name == "F16":
        largest = np.abs(values).max(initial=0.0)
        if largest > _FLOAT16_LIMIT:
            raise CheckpointError(f"tensor {name!r} holds {largest:g}; float16 ends at 65504", fix="build gguf-q8_0")
        return values.astype(np.float16).reshape(-1).view(np.uint8)
    return _quantized(np.ascontiguousarray(values), kind, importance)


def _quantized(
    values: NDArray[np.float32], kind: BlockType, importance: NDArray[np.float32] | None
) -> NDArray[np.uint8]:
    rows, columns = values.shape
    row_bytes = columns // kind.length * kind.bytes
    out = np.empty(rows * row_bytes, dtype=np.uint8)
    function = _ggml_quantize_chunk()
    weights = None if importance is None else importance.ctypes.data

    def one(start: int) -> None:
        count = min(_SLICE_ROWS, rows - start)
        source, target = values.ctypes.data + start * columns * 4, out.ctypes.data + start * row_bytes
        function(kind.number, source, target, 0, count, columns, weights)

    one(0)  # the first call makes ggml's tables, which must happen on one thread
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(one, range(_SLICE_ROWS, rows, _SLICE_ROWS)))
    return out


@cache
def _ggml_quantize_chunk() -> Callable[..., int]:
    """size_t ggml_quantize_chunk(type, src, dst, start, nrows, n_per_row, imatrix) of libggml-base."""
    import llama_cpp

    suffix = {"darwin": "dylib", "win32": "dll"}.get(sys.platform, "so")
    found = sorted((Path(llama_cpp.__file__).parent / "lib").glob(f"*ggml-base.{suffix}"))
    if not found:
        raise BuildError(
            "llama-cpp-python came without libggml-base", fix="install it again: pip install phipack[build]"
        )
    function = ctypes.CDLL(str(found[0])).ggml_quantize_chunk
    integer = ctypes.c_int64
    function.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, integer, integer, integer, ctypes.c_void_p]
    function.restype = ctypes.c_size_t
    return function
