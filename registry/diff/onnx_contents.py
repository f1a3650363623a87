"""The initializers of an ONNX graph, in the file or in an external one.

Source: onnx.proto (ModelProto.graph = 7, GraphProto.initializer = 5, TensorProto).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import PurePosixPath

from registry.bundle.manifest import FileEntry, Manifest
from registry.diff.contents import Contents, Open, Place, Tensor, require_there
from registry.formats.forwards import REPLACE_BUNDLE, Forwards, Span
from registry.formats.protobuf import fields, hash_field, text, varints
from targets.errors import BundleError

GRAPH_BYTES_LIMIT = 256 << 20  # a graph with external weights has a few MB
_NAMES = ("float32", "uint8", "int8", "uint16", "int16", "int32", "int64", "string", "bool", "float16", "float64")
_TYPES = dict(enumerate(_NAMES, 1)) | {12: "uint32", 13: "uint64", 16: "bfloat16", 21: "uint4", 22: "int4"}
_GRAPH, _INITIALIZER = 7, 5
_DIMS, _DATA_TYPE, _NAME, _RAW_DATA, _EXTERNAL_DATA = 1, 2, 8, 9, 13
# Far beyond any model's: what a hostile graph may make this process hold, next to the graph itself.
_INITIALIZERS_LIMIT = 1 << 16
_DIMENSIONS_LIMIT = 64


@dataclass(frozen=True)
class _External:
    """An initializer whose bytes are in another file."""

    storage: str
    shape: tuple[int, ...]
    path: str
    span: Span


@dataclass(frozen=True)
class _Graphs:
    """Initializers by name, those in a graph itself and those elsewhere; the digest of the rest by the graph's path."""

    tensors: dict[str, Tensor]
    external: dict[str, _External]
    rest: dict[str, str]


def onnx_contents(manifest: Manifest, open_file: Open) -> Contents:
    """Read every ONNX graph of a bundle. Raises `BundleError` where one is damaged."""
    graphs = _graphs(manifest, open_file)
    tensors = dict(graphs.tensors)
    entries = {entry.path: entry for entry in manifest.files}
    for path in sorted({one.path for one in graphs.external.values()}):
        here = {name: one for name, one in graphs.external.items() if one.path == path}
        with open_file(entries[path]) as stream:
            digests = Forwards(stream, path, entries[path].bytes).digests(one.span for one in here.values())
        for name, one in here.items():
            tensors[name] = Tensor(one.storage, one.shape, one.span.bytes, digests[one.span])
    return Contents(tensors, {f"{path} without its tensors": digest for path, digest in graphs.rest.items()})


def onnx_places(manifest: Manifest, open_file: Open) -> dict[str, Place | Tensor]:
    """Return where each initializer is, by its name, or itself where it is in a graph.

    Raises `BundleError` where a graph is damaged.
    """
    graphs = _graphs(manifest, open_file)
    return {**graphs.tensors, **{name: Place(one.path, one.span) for name, one in graphs.external.items()}}


def _graphs(manifest: Manifest, open_file: Open) -> _Graphs:
    found = _Graphs({}, {}, {})
    for entry in manifest.files:
        if entry.path.endswith(".onnx"):
            if entry.bytes > GRAPH_BYTES_LIMIT:
                raise BundleError(
                    f"{entry.path}: a graph of {entry.bytes} bytes; the limit is {GRAPH_BYTES_LIMIT}",
                    fix="compare without tensors, or build the bundle with external weights",
                )
            with open_file(entry) as stream:
                raw = memoryview(Forwards(stream, entry.path, entry.bytes).take(entry.bytes))
            try:
                found.rest[entry.path] = _read_graph(raw, entry, found.tensors, found.external)
            except (ValueError, KeyError, IndexError) as error:
                raise BundleError(
                    f"{entry.path}: not an ONNX graph that can be read: {error}", fix=REPLACE_BUNDLE
                ) from error
    require_there((one.path for one in found.external.values()), manifest, "the graph's tensors")
    return found


def _read_graph(
    raw: memoryview, entry: FileEntry, tensors: dict[str, Tensor], external_tensors: dict[str, _External]
) -> str:
    """Add a graph's initializers to the two dicts; return the digest of everything else."""
    rest, count = hashlib.sha256(), 0
    for number, value in fields(raw):
        if number != _GRAPH or isinstance(value, int):
            hash_field(rest, str(number), value)
            continue
        for inner, part in fields(value):
            if inner != _INITIALIZER or isinstance(part, int):
                hash_field(rest, f"{number}.{inner}", part)
                continue
            count += 1
            if count > _INITIALIZERS_LIMIT:
                raise ValueError(f"more than {_INITIALIZERS_LIMIT} initializers")
            name, tensor = _initializer(part, entry)
            if isinstance(tensor, _External):
                external_tensors[name] = tensor
            else:
                tensors[name] = tensor
    return f"sha256:{rest.hexdigest()[:12]}"


def _initializer(raw: memoryview, entry: FileEntry) -> tuple[str, Tensor | _External]:
    name, storage = "", "undefined"
    shape: list[int] = []
    external: dict[str, str] = {}
    typed, typed_bytes = hashlib.sha256(), 0  # of the fields that hold numbers by type: their bytes as they are stored
    content: memoryview | None = None
    for number, value in fields(raw):
        if number == _DIMS:
            shape += [value] if isinstance(value, int) else varints(value, _DIMENSIONS_LIMIT)
            if len(shape) > _DIMENSIONS_LIMIT:
                raise ValueError(f"a tensor of more than {_DIMENSIONS_LIMIT} dimensions")
        elif number == _DATA_TYPE and isinstance(value, int):
            storage = _TYPES.get(value, f"type {value}")
        elif number == _NAME and not isinstance(value, int):
            name = text(value)
        elif number == _EXTERNAL_DATA and not isinstance(value, int):
            pair = dict(fields(value))
            external[text(pair[1])] = text(pair[2])
        elif number == _RAW_DATA and content is None and not isinstance(value, int):
            content = value
        else:
            part = value.to_bytes(10, "little") if isinstance(value, int) else value
            typed.update(part)
            typed_bytes += len(part)
    if external:
        path = str(PurePosixPath(entry.path).parent / external["location"])
        span = Span(int(external.get("offset", "0")), int(external["length"]))
        return name, _External(storage, tuple(shape), path, span)
    found, size = (typed, typed_bytes) if content is None else (hashlib.sha256(content), len(content))
    return name, Tensor(storage, tuple(shape), size, "sha256:" + found.hexdigest())
