"""The bytes of llama.cpp's importance matrices, in both formats, as means by llama.cpp's names.

GGUF: see `imatrix.py`. The binary format of older releases has means times calls, little-endian:

    int32 entries | for each: int32 length, name, int32 calls, int32 count, float32 [count] | what is not read here

Source: common/imatrix-loader.cpp in llama.cpp. What a file says of itself is not believed.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from builders.quantization.calibration.statistics import have_finite_sums
from registry.formats.forwards import Forwards
from registry.formats.gguf_header import TensorInfo, read_header
from targets.errors import BundleError, CalibrationError

Floats = NDArray[np.float32]

SUMS, COUNTS = ".in_sum2", ".counts"
_FLOAT32 = 0  # in enum ggml_type
_ARRAY_BYTES_LIMIT = 1 << 26  # far beyond a row of any model
_NAME_BYTES_LIMIT = 1 << 12
_MAKE_AGAIN = "make it again with llama-imatrix, or calibrate with a text"


def read_means(path: Path) -> dict[str, Floats]:
    """Return the means of each entry, float32 [columns]: from 0 to `MOST_SQUARE`.

    Raises:
        CalibrationError: the file can't be read, is damaged, or is no importance matrix of dense matrices.
    """
    try:
        with path.open("rb") as stream:
            is_gguf = stream.read(4) == b"GGUF"
            stream.seek(0)
            file = Forwards(stream, str(path), path.stat().st_size)
            entries = dict(_gguf_entries(file, path) if is_gguf else _binary_entries(file, path))
    except OSError as error:
        raise CalibrationError(
            f"{path} can't be read: {error.strerror}", fix="give an importance matrix's file"
        ) from error
    except BundleError as error:
        raise _refused(path, f"damaged, or no importance matrix: {error.problem}") from error
    except (struct.error, UnicodeDecodeError) as error:
        raise _refused(path, f"damaged, or no importance matrix: {error}") from error
    for name, means in entries.items():
        if not have_finite_sums(means) or means.min(initial=0) < 0:
            raise _refused(path, f"{name} has a value that is no mean of squares: negative, too large or NaN")
    return entries


def _gguf_entries(file: Forwards, path: Path) -> Iterator[tuple[str, Floats]]:
    header = read_header(file, str(path))
    if header.keys.get("general.type", "imatrix") != "imatrix":
        raise _refused(path, f"a GGUF of type {header.keys['general.type']!r}, not an importance matrix")
    start = file.position + -file.position % header.alignment
    arrays: dict[str, Floats] = {}
    for tensor in sorted(header.tensors, key=lambda tensor: tensor.offset):
        if not tensor.name.endswith((SUMS, COUNTS)) or tensor.type_number != _FLOAT32:
            raise _refused(path, f"tensor {tensor.name!r} is no float32 sum or count, as importance matrices have")
        arrays[tensor.name] = _array(file, start + tensor.offset, tensor)
    for name in sorted({name.removesuffix(SUMS).removesuffix(COUNTS) for name in arrays}):
        sums, counts = arrays.get(name + SUMS), arrays.get(name + COUNTS)
        if sums is None or counts is None:
            raise _refused(path, f"{name} has only one of its sums and its count")
        if len(counts) != 1:
            raise _refused(path, f"{name} has {len(counts)} counts: only a mixture of experts has more than one")
        if not counts[0] >= 1:
            raise _refused(path, f"{name} counts {counts[0]:g} tokens: nothing was multiplied with it")
        yield name, sums / counts[0]


def _array(file: Forwards, offset: int, tensor: TensorInfo) -> Floats:
    if offset < file.position:
        raise BundleError(f"two tensors overlap at byte {offset}", fix=_MAKE_AGAIN)
    file.take(offset - file.position, _ARRAY_BYTES_LIMIT)
    return np.frombuffer(file.take(4 * math.prod(tensor.shape), _ARRAY_BYTES_LIMIT), dtype="<f4")


def _binary_entries(file: Forwards, path: Path) -> Iterator[tuple[str, Floats]]:
    entries = _int32(file)
    if entries < 1:
        raise _refused(path, f"it says that it has {entries} entries")
    for _ in range(entries):
        name = file.take(_int32(file), _NAME_BYTES_LIMIT).decode()
        calls, count = _int32(file), _int32(file)
        if calls < 1 or count < 1:
            raise _refused(path, f"{name} has {count} values from {calls} calls")
        values: Floats = np.frombuffer(file.take(4 * count, _ARRAY_BYTES_LIMIT), dtype="<f4")
        yield name, values / np.float32(calls)


def _int32(file: Forwards) -> int:
    return int(struct.unpack("<i", file.take(4))[0])


def _refused(path: Path, problem: str) -> CalibrationError:
    return CalibrationError(f"{path}: {problem}", fix=_MAKE_AGAIN)
