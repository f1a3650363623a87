"""The directory of a GGUF file. Source: docs/gguf.md in ggml-org/ggml, versions 2 and 3, little-endian.

"GGUF"  version  tensor count  key count  |  keys and values  |  tensor infos  |  padding  |  tensors, each aligned
"""

from __future__ import annotations

import hashlib
import math
import struct
from itertools import pairwise
from typing import Any

from registry.bundle.manifest import FileEntry, Manifest
from registry.diff.contents import REPLACE_BUNDLE, Contents, Forwards, Open, Span, Tensor
from targets.errors import BundleError
from targets.storage.gguf import TYPES

_KINDS = {kind.number: kind for kind in TYPES.values()}
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_DIMENSIONS_LIMIT = 4
_SHOWN_LENGTH = 60
# Far beyond any model's: what a hostile file may make this process hold. Arrays of numbers and tensors are streamed.
_ENTRIES_LIMIT = 1 << 16  # of keys, and of tensors
_ITEMS_LIMIT = 1 << 22  # of an array of texts
_TEXT_BYTES_LIMIT = 16 << 20
_NAME_BYTES_LIMIT = 1 << 16  # the format's own
_DEFAULT_ALIGNMENT = 32


def gguf_contents(manifest: Manifest, open_file: Open) -> Contents:
    """Read every GGUF file of a bundle. Raises `BundleError` where one is damaged."""
    tensors: dict[str, Tensor] = {}
    keys: dict[str, str] = {}
    for entry in manifest.files:
        if entry.path.endswith(".gguf"):
            with open_file(entry) as stream:
                try:
                    found = _read(Forwards(stream, entry), entry)
                except (struct.error, KeyError, ValueError, OverflowError) as error:
                    raise BundleError(
                        f"{entry.path}: not a GGUF file that can be read: {error}", fix=REPLACE_BUNDLE
                    ) from error
            tensors |= found.tensors
            keys |= found.keys
    return Contents(tensors, keys)


def _read(file: Forwards, entry: FileEntry) -> Contents:
    if file.take(4) != b"GGUF" or (version := _number(file, "I")) not in (2, 3):
        raise BundleError(f"{entry.path}: not a GGUF file of version 2 or 3, little-endian", fix=REPLACE_BUNDLE)
    tensor_count, key_count = _number(file, "Q"), _number(file, "Q")
    if max(tensor_count, key_count) > _ENTRIES_LIMIT:
        raise BundleError(
            f"{entry.path}: {key_count} keys and {tensor_count} tensors; at most {_ENTRIES_LIMIT} of each are read",
            fix=REPLACE_BUNDLE,
        )
    keys = {"version": str(version)}
    alignment = _DEFAULT_ALIGNMENT
    for _ in range(key_count):
        name = _string(file, _NAME_BYTES_LIMIT).decode()
        value = _value(file, _number(file, "I"))
        keys[name] = _shown(value)
        if name == "general.alignment":
            alignment = max(1, int(value))
    infos = [_tensor_info(file) for _ in range(tensor_count)]
    start = file.position + -file.position % alignment
    offsets = sorted({offset for *_, offset in infos})
    ends = dict([*pairwise(offsets), (offsets[-1], file.left + file.position - start)]) if offsets else {}
    spans = {}
    for name, shape, number, offset in infos:
        kind = _KINDS.get(number)
        # The size of an unknown type is not known: up to the next tensor, padding included.
        count = math.prod(shape) // kind.length * kind.bytes if kind else ends[offset] - offset
        spans[name] = Span(start + offset, count)
    digests = file.digests(spans.values())
    tensors = {
        name: Tensor(
            _KINDS[number].name if number in _KINDS else f"ggml type {number}",
            shape,
            spans[name].bytes,
            digests[spans[name]],
        )
        for name, shape, number, _ in infos
    }
    return Contents(tensors, keys)


def _tensor_info(file: Forwards) -> tuple[str, tuple[int, ...], int, int]:
    """Return name, shape (slowest axis first, as everywhere but in GGUF), type and offset."""
    name = _string(file, _NAME_BYTES_LIMIT).decode()
    dimensions = _number(file, "I")
    if dimensions > _DIMENSIONS_LIMIT:
        raise BundleError(
            f"tensor {name!r} of {dimensions} dimensions; GGUF has at most {_DIMENSIONS_LIMIT}", fix=REPLACE_BUNDLE
        )
    shape = tuple(_number(file, "Q") for _ in range(dimensions))[::-1]
    return name, shape, _number(file, "I"), _number(file, "Q")


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


def _shown(value: Any) -> str:
    text = str(value)
    if len(text) <= _SHOWN_LENGTH and text.isprintable():
        return text
    return f"{len(text)} letters, sha256:{hashlib.sha256(text.encode()).hexdigest()[:12]}"
