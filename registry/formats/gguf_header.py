"""What stands before the tensors of a GGUF file.

Source: docs/gguf.md in ggml-org/ggml, versions 2 and 3, little-endian.

"GGUF"  version  tensor count  key count  |  keys and values  |  tensor infos  |  padding  |  tensors, each aligned
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from registry.formats.forwards import REPLACE_BUNDLE, Forwards
from targets.errors import BundleError

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_DIMENSIONS_LIMIT = 4
# Far beyond any model's: what a hostile file may make this process hold. Arrays of numbers and tensors are streamed.
_ENTRIES_LIMIT = 1 << 16  # of keys, and of tensors
_ITEMS_LIMIT = 1 << 22  # of an array of texts
_TEXT_BYTES_LIMIT = 16 << 20
_NAME_BYTES_LIMIT = 1 << 16  # the format's own
_DEFAULT_ALIGNMENT = 32


@dataclass(frozen=True)
class TensorInfo:
    """A tensor's name, shape (slowest axis first, as everywhere but in GGUF), ggml type and offset past the header."""

    name: str
    shape: tuple[int, ...]
    type_number: int
    offset: int


@dataclass(frozen=True)
class GgufHeader:
    """A file's keys and tensors. Of an array, `keys` has its length and digest: some have 200,000 texts."""

    version: int
    keys: Mapping[str, Any]
    tensors: tuple[TensorInfo, ...]
    alignment: int


def read_header(file: Forwards, name: str) -> GgufHeader:
    """Read a header from a file's start. Raises `BundleError` where it is damaged; `name` is the file's in errors."""
    try:
        return _read(file, name)
    except (struct.error, KeyError, ValueError, OverflowError) as error:
        raise BundleError(f"{name}: not a GGUF file that can be read: {error}", fix=REPLACE_BUNDLE) from error


def _read(file: Forwards, name: str) -> GgufHeader:
    if file.take(4) != b"GGUF" or (version := _number(file, "I")) not in (2, 3):
        raise BundleError(f"{name}: not a GGUF file of version 2 or 3, little-endian", fix=REPLACE_BUNDLE)
    tensor_count, key_count = _number(file, "Q"), _number(file, "Q")
    if max(tensor_count, key_count) > _ENTRIES_LIMIT:
        raise BundleError(
            f"{name}: {key_count} keys and {tensor_count} tensors; at most {_ENTRIES_LIMIT} of each are read",
            fix=REPLACE_BUNDLE,
        )
    keys = {}
    for _ in range(key_count):
        key = _string(file, _NAME_BYTES_LIMIT).decode()
        keys[key] = _value(file, _number(file, "I"))
    alignment = max(1, int(keys.get("general.alignment", _DEFAULT_ALIGNMENT)))
    return GgufHeader(version, keys, tuple(_tensor_info(file) for _ in range(tensor_count)), alignment)


def _tensor_info(file: Forwards) -> TensorInfo:
    name = _string(file, _NAME_BYTES_LIMIT).decode()
    dimensions = _number(file, "I")
    if dimensions > _DIMENSIONS_LIMIT:
        raise BundleError(
            f"tensor {name!r} of {dimensions} dimensions; GGUF has at most {_DIMENSIONS_LIMIT}", fix=REPLACE_BUNDLE
        )
    shape = tuple(_number(file, "Q") for _ in range(dimensions))[::-1]
    return TensorInfo(name, shape, _number(file, "I"), _number(file, "Q"))


def _number(file: Forwards, letter: str) -> Any:
    return struct.unpack("<" + letter, file.take(struct.calcsize("<" + letter)))[0]


def _string(file: Forwards, limit: int = _TEXT_BYTES_LIMIT) -> bytearray:
    return file.take(_number(file, "Q"), limit)


def _value(file: Forwards, kind: int) -> Any:
    """Read a value; for an array return its digest: some have 200,000 strings."""
    if kind == _STRING:
        return _string(file).decode()
    if kind != _ARRAY:
        return _number(file, _SCALARS[kind])
    inner, count = _number(file, "I"), _number(file, "Q")
    if inner == _ARRAY:
        raise BundleError("an array of arrays, which no GGUF of a language model has", fix=REPLACE_BUNDLE)
    if inner == _STRING and count > _ITEMS_LIMIT:
        raise BundleError(f"an array of {count} texts; at most {_ITEMS_LIMIT} are read", fix=REPLACE_BUNDLE)
    if inner != _STRING:
        return f"{count} values, {file.digest(count * struct.calcsize('<' + _SCALARS[inner]))[:19]}"
    hasher = hashlib.sha256()
    for _ in range(count):
        text = _string(file)
        hasher.update(len(text).to_bytes(8, "little") + text)
    return f"{count} strings, sha256:{hasher.hexdigest()[:12]}"
