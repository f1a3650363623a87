"""Writing a program as an `.mlpackage`, its large constants computed, written and dropped one at a time.

    model.mlpackage/
      Manifest.json                                   coremltools' layout; identifiers derived from the specification
      Data/com.apple.CoreML/model.mlmodel             the specification: description and program (protobuf)
      Data/com.apple.CoreML/weights/weight.bin        the constants (coremltools' blob storage)

coremltools' own `convert` and `save` would run passes that read every constant, and would write random identifiers and
the date.
"""

from __future__ import annotations

import hashlib
import json
import math
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from builders.coreml.weights import Weights
from registry.bundle.chunks import FileDigest, digest_in_chunks
from targets.errors import BuildError
from targets.storage.coreml import ALIGNMENT

PACKAGE_NAME = "model.mlpackage"
AUTHOR = "com.apple.CoreML"
MODEL_FILE = f"{AUTHOR}/model.mlmodel"
WEIGHTS_FOLDER = f"{AUTHOR}/weights"
WEIGHTS_FILE = "weight.bin"
_BLOB_STEP = ALIGNMENT
_LARGE_BLOB_BYTES = 1 << 18
_IDENTIFIERS = uuid.UUID("5b6a5b7e-0d1c-5f0e-9a63-6f0a4c1c2d3e")  # our namespace of identifiers in Manifest.json


def write_package(package: Path, program: Any, weights: Weights, description: Any) -> dict[str, FileDigest]:
    """Write a `mil.Program` and its `ModelDescription` (protobuf). The same content results in the same bytes.

    Returns the digests of the weights' file, by its path in the package.
    """
    weights_folder = package / "Data" / WEIGHTS_FOLDER
    weights_folder.mkdir(parents=True)
    exporter = _exporter(program, weights, weights_folder)
    specification = _specification(exporter.export(), description)
    described = exporter.described
    del exporter  # which closes the weights' file
    weights.report_written()
    (package / "Data" / MODEL_FILE).write_bytes(specification)
    (package / "Manifest.json").write_bytes(_manifest(hashlib.sha256(specification).hexdigest()))
    path = weights_folder / WEIGHTS_FILE
    if not path.exists():
        return {}
    with weights.phases.phase("hash"):
        return {f"Data/{WEIGHTS_FOLDER}/{WEIGHTS_FILE}": digest_in_chunks(path, _borders(described))}


def _borders(described: Sequence[int]) -> Iterator[int]:
    """Yield where chunks begin: at blobs' descriptions, and at the data of large blobs.

    A description holds the offset of its data, so data shares a chunk with it only where it is small.
    """
    for here, following in zip(described, [*described[1:], math.inf], strict=True):
        yield here
        if following - here > _LARGE_BLOB_BYTES:
            yield here + _BLOB_STEP


def package_sizes(program: Any, weights: Weights, description: Any) -> dict[str, int]:
    """Return the bytes of each file that `write_package` would write, by its path in the package. No weight is read."""
    places = Places()
    specification = _specification(_exporter(program, weights, None, places).export(), description)
    return {
        "Manifest.json": len(_manifest(hashlib.sha256(specification).hexdigest())),
        f"Data/{MODEL_FILE}": len(specification),
        f"Data/{WEIGHTS_FOLDER}/{WEIGHTS_FILE}": places.bytes,
    }


def _specification(program: Any, description: Any) -> bytes:
    import coremltools as ct

    model = ct.proto.Model_pb2.Model(specificationVersion=ct.target.iOS18.value, description=description)
    model.mlProgram.CopyFrom(program)
    return bytes(model.SerializeToString(deterministic=True))


class Places:
    """Offsets that blobs would have in `weight.bin`, without writing them.

    Layout (source: coremltools' mlmodel/src/MILBlob/Blob/StorageFormat.hpp): a header of 64 bytes; then for each blob
    64 bytes that describe it, and its data, each at a multiple of 64. A program names a blob by its description.
    """

    def __init__(self) -> None:
        self.bytes = _BLOB_STEP

    def next(self, byte_count: int) -> int:
        """Reserve the next blob's place, and return the offset of its description."""
        described = math.ceil(self.bytes / _BLOB_STEP) * _BLOB_STEP
        self.bytes = described + _BLOB_STEP + byte_count
        return described


def _exporter(program: Any, weights: Weights, folder: Path | None, places: Places | None = None) -> Any:
    """Return coremltools' exporter, changed to compute a promised constant only when it writes it.

    With `places` nothing is computed or written: blobs get the offsets that they would have. A constant that several
    functions have, by the same name, is stored once.
    """
    import coremltools as ct
    from coremltools.converters.mil.backend.mil import helper
    from coremltools.converters.mil.backend.mil.load import MILProtoExporter

    class StreamingExporter(MILProtoExporter):  # type: ignore[misc]
        written_bytes = 0

        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.described: list[int] = []  # offsets in the weights' file
            self.stored: dict[tuple[str, bytes], Any] = {}  # by name, and by value where that is not promised

        def get_milproto_value(self, var: Any) -> Any:
            return self.create_file_value(var) if weights.is_promised(var.name) else super().get_milproto_value(var)

        def create_file_value(self, var: Any) -> Any:
            key = (var.name, b"" if weights.is_promised(var.name) else np.ascontiguousarray(var.val).tobytes())
            if key not in self.stored:
                self.stored[key] = self._file_value(var)
                self.described.append(self.stored[key].blobFileValue.offset)
            return self.stored[key]

        def _file_value(self, var: Any) -> Any:
            if places is None and not weights.is_promised(var.name):
                return super().create_file_value(var)
            return helper.create_file_value_tensor(
                file_name=f"@model_path/weights/{WEIGHTS_FILE}",
                offset=self._written(var) if places is None else places.next(_byte_count(var)),
                dim=var.shape,
                data_type=helper.types_to_proto_primitive(var.dtype),
            )

        def _written(self, var: Any) -> int:
            weights.report_written(self.written_bytes)
            self.written_bytes += _byte_count(var)
            return _write(self.get_blob_writer(self.get_weight_path(var.op)), var, weights)

    return StreamingExporter(program, str(folder), ct.target.iOS18.value)


def _byte_count(variable: Any) -> int:
    from coremltools.converters.mil.mil import types

    bits = {types.uint3: 3, types.uint4: 4}.get(variable.dtype)
    if bits is None:
        bits = 8 * types.nptype_from_builtin(variable.dtype)().nbytes
    return math.ceil(math.prod(variable.shape) * bits / 8)


def _write(writer: Any, variable: Any, weights: Weights) -> int:
    """Write one promised constant, and return its offset in `weight.bin`."""
    from coremltools.converters.mil.mil import types

    flat = weights.fulfil(variable.name).reshape(-1)
    try:
        with weights.phases.phase("write", _byte_count(variable)):
            if variable.dtype == types.uint4:
                return int(writer.write_uint4_data(flat))
            if variable.dtype == types.uint3:
                return int(writer.write_uint3_data(flat))
            if variable.dtype == types.uint8:
                return int(writer.write_uint8_data(flat))
            if variable.dtype == types.fp16:
                return int(writer.write_fp16_data(flat.view(np.uint16)))
            return int(writer.write_float_data(flat))
    except RuntimeError as error:  # coremltools' writer does not say what kind of error it is
        raise BuildError(
            f"{WEIGHTS_FILE} can't be written: {error}",
            fix="most often the disk is full: free space, or name a folder on another disk with -o",
        ) from error


def _manifest(digest: str) -> bytes:
    """Return `Manifest.json`, as coremltools' ModelPackage writes it."""
    entries = {}
    identifiers = []
    for name, path, what in (
        ("model.mlmodel", MODEL_FILE, "CoreML Model Specification"),
        ("weights", WEIGHTS_FOLDER, "CoreML Model Weights"),
    ):
        identifiers.append(str(uuid.uuid5(_IDENTIFIERS, f"{digest} {path}")))
        entries[identifiers[-1]] = {"author": AUTHOR, "description": what, "name": name, "path": path}
    content = {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": entries,
        "rootModelIdentifier": identifiers[0],
    }
    return (json.dumps(content, indent=4, sort_keys=True, allow_nan=False) + "\n").encode()
