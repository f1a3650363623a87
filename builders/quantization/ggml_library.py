"""ggml's own quantizers, called from the C library inside llama-cpp-python: the same bytes as llama-quantize."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from builders.threads import thread_count
from targets.errors import BuildError, CheckpointError
from targets.storage.gguf import BlockType

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

_FLOAT16_LIMIT = 65504.0
# Scales are float16. Q4_0's is the largest value / 8, and Q5_1's minimum is the least value itself: all other block
# types can hold larger ones. Fitted to columns with an importance, both may be larger than that: hence half of it.
_BLOCK_LIMIT = _FLOAT16_LIMIT * 8
_LIMIT = {"F16": _FLOAT16_LIMIT, "Q4_0": _FLOAT16_LIMIT * 8 / 2, "Q5_1": _FLOAT16_LIMIT / 2}
_SLICE_ROWS = 64  # rows a thread takes at a time, without Python's lock: few, so that all threads end together


def encode(values: Floats, kind: BlockType, *, name: str, importance: Floats | None = None) -> Bytes:
    """Encode float32 values, [rows, columns] or [columns], in a ggml type. Returns the bytes, row after row.

    Args:
        values: columns must be a multiple of the type's block length.
        kind: the ggml type.
        name: of the tensor, for errors.
        importance: weight of each column in the quantization error, float32 [columns]; equal by default.

    Raises:
        CheckpointError: a value is too large for the type.
    """
    if kind.name == "F32":
        return values.reshape(-1).view(np.uint8)
    return in_slices(values, kind, lambda rows: encode_rows(rows, kind, name=name, importance=importance))


def in_slices(values: Floats, kind: BlockType, encode_some: Callable[[Floats], Bytes]) -> Bytes:
    """Encode [rows, columns] on all threads, some rows at a time. Returns the bytes, row after row."""
    rows, columns = values.shape
    out = np.empty((rows, columns // kind.length * kind.bytes), dtype=np.uint8)

    def work(start: int) -> None:
        part = slice(start, start + _SLICE_ROWS)
        out[part] = encode_some(values[part])

    with ThreadPoolExecutor(thread_count()) as pool:
        list(pool.map(work, range(0, rows, _SLICE_ROWS)))
    return out.reshape(-1)


def encode_rows(values: Floats, kind: BlockType, *, name: str, importance: Floats | None = None) -> Bytes:
    """Encode a few rows [rows, columns] on this thread: see `encode`. Returns [rows, bytes of a row]."""
    check_magnitude(values, kind, name)
    rows, columns = values.shape
    source = np.ascontiguousarray(values, dtype=np.float32)
    out = np.empty((rows, columns // kind.length * kind.bytes), dtype=np.uint8)
    weights = None if importance is None else np.ascontiguousarray(importance, dtype=np.float32)
    address = None if weights is None else weights.ctypes.data
    _ggml_quantize_chunk()(kind.number, source.ctypes.data, out.ctypes.data, 0, rows, columns, address)
    return out


def check_magnitude(values: Floats, kind: BlockType, name: str) -> None:
    """Raise `CheckpointError` where a value is too large for a type."""
    largest = max(values.max(), -values.min())
    if largest > _LIMIT.get(kind.name, _BLOCK_LIMIT):
        raise CheckpointError(
            f"tensor {name!r} holds a value of magnitude {largest:g}; the largest in {kind.name} is "
            f"{_LIMIT.get(kind.name, _BLOCK_LIMIT):g}",
            fix="no trained language model has such weights: check the training run, or download it again",
        )


@cache
def _ggml_quantize_chunk() -> Callable[..., int]:
    """size_t ggml_quantize_chunk(type, src, dst, start, nrows, n_per_row, imatrix) of libggml-base."""
    import llama_cpp

    suffix = {"darwin": "dylib", "win32": "dll"}.get(sys.platform, "so")
    found = sorted((Path(llama_cpp.__file__).parent / "lib").glob(f"*ggml-base.{suffix}"))
    if not found:
        raise BuildError(
            "llama-cpp-python is installed without libggml-base",
            fix="install it again: pip install --force-reinstall llama-cpp-python",
        )
    function = ctypes.CDLL(str(found[0])).ggml_quantize_chunk
    integer = ctypes.c_int64
    function.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, integer, integer, integer, ctypes.c_void_p]
    function.restype = ctypes.c_size_t
    return function
