"""Core ML programs and their constants, written and read with coremltools' own schema and reader."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

FLOAT16, FLOAT32, INT32, UINT4 = 10, 11, 23, 35


def coreml_model(
    constants: Mapping[str, tuple[int, Sequence[int]]],
    *,
    prompt: Mapping[str, tuple[int, Sequence[int]]] | None = None,
    author: str = "",
) -> bytes:
    """Return a model whose function `main` has float16 constants: name -> offset and shape. `prompt`: another one's."""
    from coremltools import proto

    model = proto.Model_pb2.Model(specificationVersion=9)
    model.description.metadata.author = author
    for name, own in {"main": constants, "prompt": prompt}.items():
        if own is not None:
            block = model.mlProgram.functions[name].block_specializations["CoreML8"]
            for constant, (offset, shape) in own.items():
                operation = block.operations.add(type="const")
                operation.outputs.add(name=constant)
                value = operation.attributes["val"]
                value.type.tensorType.dataType = FLOAT16
                for size in shape:
                    value.type.tensorType.dimensions.add().constant.size = size
                value.blobFileValue.fileName = "@model_path/weights/weight.bin"
                value.blobFileValue.offset = offset
    return bytes(model.SerializeToString(deterministic=True))


def blob_file(*contents: bytes) -> bytes:
    """Return a file of constants, one of 6 bytes by default, each with its description at a multiple of 64."""
    raw = bytes(64)
    for content in contents or (b"abcdef",):
        raw += struct.pack("<IIQQ", 0xDEADBEEF, 1, len(content), len(raw) + 64).ljust(64, b"\0")
        raw += content.ljust(64, b"\0")
    return raw


def coreml_constants(bundle: Path) -> dict[str, tuple[tuple[int, ...], bytes]]:
    """Return shape and bytes of each constant of a bundle that is in its file of weights, by coremltools' reader."""
    from coremltools import proto
    from coremltools.libmilstoragepython import _BlobStorageReader

    (path,) = bundle.rglob("model.mlmodel")
    model = proto.Model_pb2.Model()
    model.ParseFromString(path.read_bytes())
    reader = _BlobStorageReader(str(path.parent / "weights" / "weight.bin"))
    return {
        name: (tuple(size.constant.size for size in value.type.tensorType.dimensions), _bytes_of(reader, value))
        for function in model.mlProgram.functions.values()
        for operation in function.block_specializations[function.opset].operations
        for name, value in _values(operation)
        if value.WhichOneof("value") == "blobFileValue"
    }


def _values(operation: Any) -> Iterator[tuple[str, Any]]:
    result = operation.outputs[0].name if operation.outputs else ""
    if operation.type == "const":
        yield result, operation.attributes["val"]
    for key, argument in operation.inputs.items():
        for binding in argument.arguments:
            if binding.WhichOneof("binding") == "value":
                yield f"{result}.{key}", binding.value


def _bytes_of(reader: Any, value: Any) -> bytes:
    offset, kind = value.blobFileValue.offset, value.type.tensorType.dataType
    if kind == UINT4:  # the reader unpacks: two in a byte, the first in the lower half
        codes = np.asarray(reader.read_uint4_data(offset))
        return bytes((codes[0::2] | codes[1::2] << 4).astype(np.uint8).tobytes())
    read = {FLOAT16: reader.read_fp16_data, FLOAT32: reader.read_float_data, INT32: reader.read_int32_data}[kind]
    return bytes(np.ascontiguousarray(read(offset)).tobytes())
