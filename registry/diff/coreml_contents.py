"""The large constants of a Core ML program, whose bytes are in `weight.bin`.

A constant is named by the operation that has it: by its result where it is a constant of its own, else by its result
and the argument, such as `model_layers_0_mlp_down_proj.scale`. The program names a constant's place by its description,
64 bytes before its data. Sources: coremltools' Model.proto (Model.mlProgram = 502), MIL.proto, and
mlmodel/src/MILBlob/Blob/StorageFormat.hpp.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from operator import attrgetter
from pathlib import PurePosixPath

from registry.bundle.manifest import FileEntry, Manifest
from registry.diff.contents import Contents, Open, Place, Tensor, require_there
from registry.formats.coreml_model import MODEL_BYTES_LIMIT
from registry.formats.forwards import REPLACE_BUNDLE, Forwards, Span
from registry.formats.protobuf import fields, hash_field, text
from targets.errors import BundleError

# Numbers of fields. A map's entry has its key in the first and its value in the second.
_ML_PROGRAM, _FUNCTIONS, _BLOCKS, _OPERATIONS = 502, 2, 3, 3
_INPUTS, _OUTPUTS, _ATTRIBUTES = 2, 3, 5  # of an operation
_KEY, _VALUE = 1, 2
_OWN_VALUE = "val"  # the attribute of an operation that is a constant
_NAME = 1  # of a result
_BINDINGS, _BOUND_VALUE = 1, 2  # of an argument
_TYPE, _BLOB = 2, 5  # of a value
_FILE_NAME, _OFFSET = 1, 2  # of a blob
_TENSOR_TYPE, _DATA_TYPE, _DIMENSIONS, _CONSTANT, _SIZE = 1, 1, 3, 1, 1

_STORAGES = {
    1: "bool", 10: "float16", 11: "float32", 12: "float64", 21: "int8", 22: "int16", 23: "int32", 24: "int64",
    25: "int4", 31: "uint8", 32: "uint16", 33: "uint32", 34: "uint64", 35: "uint4", 36: "uint2", 37: "uint1",
    38: "uint6", 39: "uint3",
}  # fmt: skip
_FOLDER = "@model_path/"  # that of the model's file
_DESCRIPTION = struct.Struct("<IIQQ")  # marker, type, bytes of the data, where the data is
_DESCRIPTION_BYTES = 64
_MARKER = 0xDEADBEEF
# Far beyond any model's: what a hostile program may make this process hold, next to the program itself.
_BLOBS_LIMIT = 1 << 16
_DIMENSIONS_LIMIT = 64


@dataclass(frozen=True)
class Blob:
    """A constant in another file of the bundle. `offset`: of its description."""

    path: str
    offset: int
    storage: str
    shape: tuple[int, ...]


@dataclass
class _Program:
    """Constants by name, and the digest of the rest of each model's file by its path."""

    blobs: dict[str, Blob] = field(default_factory=dict)
    rest: dict[str, str] = field(default_factory=dict)


def coreml_contents(manifest: Manifest, open_file: Open) -> Contents:
    """Read every program of a bundle and its constants. Raises `BundleError` where one is damaged."""
    program = _read(manifest, open_file)
    entries = {entry.path: entry for entry in manifest.files}
    digests: dict[tuple[str, int], tuple[int, str]] = {}
    by_place = sorted(program.blobs.values(), key=attrgetter("path", "offset"))
    for path, blobs in groupby(by_place, attrgetter("path")):
        with open_file(entries[path]) as stream:
            file = Forwards(stream, path, entries[path].bytes)
            for offset, _ in groupby(blobs, attrgetter("offset")):
                digests[path, offset] = _digest(file, path, offset)
    tensors = {
        name: Tensor(blob.storage, blob.shape, *digests[blob.path, blob.offset]) for name, blob in program.blobs.items()
    }
    return Contents(tensors, {f"{path} without its tensors": digest for path, digest in program.rest.items()})


def coreml_places(manifest: Manifest, open_file: Open) -> dict[str, Place | Tensor]:
    """Return where each constant is with its description, by its name: up to the next one, or the file's end.

    Raises `BundleError` where a program is damaged.
    """
    blobs = _read(manifest, open_file).blobs
    ends: dict[tuple[str, int], int] = {}
    for entry in manifest.files:
        begins = sorted({blob.offset for blob in blobs.values() if blob.path == entry.path})
        ends |= {(entry.path, begin): end for begin, end in pairwise([*begins, entry.bytes])}
    return {
        name: Place(blob.path, Span(blob.offset, ends[blob.path, blob.offset] - blob.offset))
        for name, blob in blobs.items()
    }


def _digest(file: Forwards, path: str, offset: int) -> tuple[int, str]:
    """Return the bytes and the digest of a constant's data."""
    if offset < file.position:
        raise BundleError(f"{path}: two constants overlap at byte {offset}", fix=REPLACE_BUNDLE)
    file.skip(offset - file.position)
    marker, _, size, start = _DESCRIPTION.unpack_from(file.take(_DESCRIPTION_BYTES))
    if marker != _MARKER or start < file.position:
        raise BundleError(f"{path}: no constant is described at byte {offset}", fix=REPLACE_BUNDLE)
    file.skip(start - file.position)
    return size, file.digest(size)


def _read(manifest: Manifest, open_file: Open) -> _Program:
    found = _Program()
    for entry in manifest.files:
        if not entry.path.endswith(".mlmodel"):
            continue
        if entry.bytes > MODEL_BYTES_LIMIT:
            raise BundleError(
                f"{entry.path}: {entry.bytes} bytes; the limit is {MODEL_BYTES_LIMIT}", fix=REPLACE_BUNDLE
            )
        with open_file(entry) as stream:
            raw = memoryview(Forwards(stream, entry.path, entry.bytes).take(entry.bytes))
        try:
            found.rest[entry.path] = _read_model(raw, entry, found.blobs)
        except (ValueError, KeyError, IndexError) as error:
            raise BundleError(
                f"{entry.path}: not a Core ML model that can be read: {error}", fix=REPLACE_BUNDLE
            ) from error
    require_there((blob.path for blob in found.blobs.values()), manifest, "the program's constants")
    return found


def _read_model(raw: memoryview, entry: FileEntry, blobs: dict[str, Blob]) -> str:
    """Add the constants of a model's functions to `blobs`; return the digest of everything but their places."""
    rest = hashlib.sha256()
    for function, operation in _operations(raw, rest):
        for name, blob in _blobs_of(operation, entry, rest):
            whole = name if blobs.get(name, blob) == blob else f"{function}/{name}"
            if blobs.setdefault(whole, blob) != blob:
                raise ValueError(f"two constants {whole!r}")
            if len(blobs) > _BLOBS_LIMIT:
                raise ValueError(f"more than {_BLOBS_LIMIT} constants")
    return f"sha256:{rest.hexdigest()[:12]}"


def _operations(raw: memoryview, rest: hashlib._Hash) -> Iterator[tuple[str, memoryview]]:
    """Yield each function's name with each of its operations; what is around them is hashed."""
    for program in _inside(raw, _ML_PROGRAM, rest):
        for entry in _inside(program, _FUNCTIONS, rest):
            name = text(dict(fields(entry))[_KEY])
            for function in _inside(entry, _VALUE, rest):
                for specialization in _inside(function, _BLOCKS, rest):
                    for block in _inside(specialization, _VALUE, rest):
                        for operation in _inside(block, _OPERATIONS, rest):
                            yield name, operation


def _blobs_of(operation: memoryview, entry: FileEntry, rest: hashlib._Hash) -> Iterator[tuple[str, Blob]]:
    """Yield an operation's constants with their names; the rest of it is hashed."""
    results = [dict(fields(_message(value))) for number, value in fields(operation) if number == _OUTPUTS]
    result = text(results[0][_NAME]) if results else ""
    for number, value in fields(operation):
        if number not in (_INPUTS, _ATTRIBUTES):
            hash_field(rest, str(number), value)
            continue
        pair = dict(fields(_message(value)))
        key, held = text(pair[_KEY]), _message(pair[_VALUE])
        rest.update(f"{number}:{key};".encode())
        for bound in [held] if number == _ATTRIBUTES else _bound_values(held, rest):
            blob = _blob(bound, entry)
            if blob is None:
                hash_field(rest, str(number), bound)
            else:
                yield (result if key == _OWN_VALUE else f"{result}.{key}"), blob


def _bound_values(argument: memoryview, rest: hashlib._Hash) -> Iterator[memoryview]:
    for binding in _inside(argument, _BINDINGS, rest):
        yield from _inside(binding, _BOUND_VALUE, rest)


def _blob(value: memoryview, entry: FileEntry) -> Blob | None:
    """Return a value that is in another file; None for one in the program."""
    parts = dict(fields(value))
    if _BLOB not in parts:
        return None
    place = dict(fields(_message(parts[_BLOB])))
    if not isinstance(offset := place[_OFFSET], int):
        raise ValueError("a constant's place is no number")  # noqa: TRY004 - its caller's one error
    storage, shape = "undefined", []
    for number, part in fields(_message(dict(fields(_message(parts[_TYPE])))[_TENSOR_TYPE])):
        if number == _DATA_TYPE and isinstance(part, int):
            storage = _STORAGES.get(part, f"type {part}")
        elif number == _DIMENSIONS:
            size = dict(fields(_message(dict(fields(_message(part)))[_CONSTANT]))).get(_SIZE, 0)
            shape.append(size if isinstance(size, int) else 0)
            if len(shape) > _DIMENSIONS_LIMIT:
                raise ValueError(f"a constant of more than {_DIMENSIONS_LIMIT} dimensions")
    path = PurePosixPath(entry.path).parent / text(place[_FILE_NAME]).removeprefix(_FOLDER)
    return Blob(str(path), offset, storage, tuple(shape))


def _inside(raw: memoryview, wanted: int, rest: hashlib._Hash) -> Iterator[memoryview]:
    """Yield a message's fields of one number, which are messages; the others are hashed."""
    for number, value in fields(raw):
        if number == wanted and not isinstance(value, int):
            rest.update(f"{number}(".encode())
            yield value
            rest.update(b")")
        else:
            hash_field(rest, str(number), value)


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number where a message belongs")  # noqa: TRY004 - its callers' one error
    return value
