"""A saved `.mlpackage` read back as a list of steps and a source of constants, from its protobuf and its blobs.

Of an operation only what an evaluation needs is kept: type, arguments, results and their dtypes. Large constants stay
in `weight.bin` until they are read.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from builders.coreml.interface import MAIN
from builders.coreml.library import load_coremltools
from builders.coreml.package import MODEL_FILE, WEIGHTS_FILE, WEIGHTS_FOLDER
from targets.bounded_file import TooLargeError, read_at_most
from targets.errors import MeasurementError

PROGRAM_BYTES_LIMIT = 64 << 20  # weights are in a file of their own
_DESCRIPTION = struct.Struct("<IIQQ")
_MARKER = 0xDEADBEEF
_FIX = "validate it on a Mac, where Core ML itself runs it"
# MIL data types (MIL.proto) by number: name, numpy dtype when evaluated, and the type's name in the blob reader.
_TYPES: dict[int, tuple[str, Any, str | None]] = {
    1: ("bool", np.bool_, None),
    2: ("string", np.str_, None),
    10: ("fp16", np.float16, "fp16"),
    11: ("fp32", np.float32, "float"),
    21: ("int8", np.int8, "int8"),
    22: ("int16", np.int16, "int16"),
    23: ("int32", np.int32, "int32"),
    24: ("int64", np.int64, None),
    25: ("int4", np.int8, "int4"),
    31: ("uint8", np.uint8, "uint8"),
    32: ("uint16", np.uint16, "uint16"),
    33: ("uint32", np.uint32, "uint32"),
    35: ("uint4", np.uint8, "uint4"),
    36: ("uint2", np.uint8, "uint2"),
    37: ("uint1", np.uint8, "uint1"),
    38: ("uint6", np.uint8, "uint6"),
    39: ("uint3", np.uint8, "uint3"),
}


@dataclass(frozen=True)
class Blob:
    """A constant in `weight.bin`."""

    kind: int  # MIL data type
    shape: tuple[int, ...]
    offset: int

    @property
    def type_name(self) -> str:
        """The name of its data type, such as `int4`."""
        return _TYPES[self.kind][0]


Constant = NDArray[Any] | str | Blob


@dataclass(frozen=True)
class Result:
    """A result of an operation: the variable's name, and its numpy dtype."""

    name: str
    dtype: Any


@dataclass(frozen=True)
class Step:
    """One operation. An argument is a variable's name, a constant, or a tuple of these."""

    operator: str
    arguments: dict[str, Any]
    results: tuple[Result, ...]


@dataclass(frozen=True)
class Variable:
    """The name of a variable as an argument."""

    name: str


@dataclass(frozen=True)
class StoredProgram:
    """A function of a package."""

    steps: tuple[Step, ...]
    constants: dict[str, Constant]
    states: dict[str, tuple[int, ...]]  # float16, by name: shape
    outputs: tuple[str, ...]
    metadata: dict[str, str]
    blobs: BlobFile


class BlobFile:
    """`weight.bin`, read by coremltools' own reader."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reader: Any = None
        self._bytes: NDArray[np.uint8] | None = None

    def read(self, blob: Blob) -> NDArray[Any]:
        """Return a constant; elements smaller than a byte take a byte each."""
        from coremltools.libmilstoragepython import _BlobStorageReader

        if self._reader is None:
            self._reader = _BlobStorageReader(str(self._path))
        _, dtype, word = _TYPES[blob.kind]
        if word is None:
            raise MeasurementError(f"{self._path}: a constant of type {_TYPES[blob.kind][0]} can't be read", fix=_FIX)
        raw = getattr(self._reader, f"read_{word}_data")(blob.offset)
        flat = raw.view(np.float16) if blob.kind == 10 else raw
        return np.asarray(flat).astype(dtype, copy=False).reshape(blob.shape)

    def mapped(self, blob: Blob) -> NDArray[np.uint8]:
        """Return a constant's bytes as they are stored, mapped: elements smaller than a byte are packed.

        A blob's description, at its offset, is 64 bytes: a marker, the type, the data's size and the data's offset
        (source: coremltools' mlmodel/src/MILBlob/Blob/StorageFormat.hpp).
        """
        if self._bytes is None:
            self._bytes = np.memmap(self._path, np.uint8, "r")
        described = self._bytes[blob.offset : blob.offset + _DESCRIPTION.size].tobytes()
        if len(described) == _DESCRIPTION.size:
            marker, _, size, start = _DESCRIPTION.unpack(described)
            if marker == _MARKER and start + size <= len(self._bytes):
                return self._bytes[start : start + size]
        raise ValueError(f"there is no constant at {blob.offset} of {self._path.name}")


def read_program(package: Path, function: str = MAIN) -> StoredProgram:
    """Read a function of a saved package.

    Raises:
        MeasurementError: it is not an ML Program with this function, or holds a kind of value that can't be evaluated.
    """
    load_coremltools()
    from coremltools import proto
    from google.protobuf.message import DecodeError

    path = package / "Data" / MODEL_FILE
    model = proto.Model_pb2.Model()
    try:
        raw = read_at_most(path, PROGRAM_BYTES_LIMIT)
        model.ParseFromString(raw)
        return _program(package, path, model, function)
    except (OSError, TooLargeError, DecodeError) as error:
        raise MeasurementError(f"{path} is not a Core ML model: {error}", fix="build the bundle again") from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:  # fields that are not there
        raise MeasurementError(
            f"{path} is damaged: {type(error).__name__}: {error}", fix="fetch or build the bundle again"
        ) from error


def _program(package: Path, path: Path, model: Any, function: str) -> StoredProgram:
    functions = model.mlProgram.functions
    if function not in functions:
        raise MeasurementError(f"{path} holds no ML Program with a {function} function", fix="build the bundle again")
    main = functions[function]
    block = main.block_specializations[main.opset]
    steps: list[Step] = []
    constants: dict[str, Constant] = {}
    for operation in block.operations:
        if operation.type == "const":
            constants[operation.outputs[0].name] = _constant(operation.attributes["val"])
        else:
            steps.append(_step(operation))
    return StoredProgram(
        steps=tuple(steps),
        constants=constants,
        states={
            value.name: _shape(value.type.stateType.wrappedType.tensorType)
            for value in main.inputs
            if value.type.WhichOneof("type") == "stateType"
        },
        outputs=tuple(block.outputs),
        metadata=dict(model.description.metadata.userDefined),
        blobs=BlobFile(package / "Data" / WEIGHTS_FOLDER / WEIGHTS_FILE),
    )


def _step(operation: Any) -> Step:
    if operation.blocks:
        raise MeasurementError(f"operator {operation.type!r} has blocks, which can't be evaluated here", fix=_FIX)
    arguments: dict[str, Any] = {
        name: _constant(value) for name, value in operation.attributes.items() if name != "name"
    }
    for name, argument in operation.inputs.items():
        values = [
            Variable(binding.name) if binding.WhichOneof("binding") == "name" else _constant(binding.value)
            for binding in argument.arguments
        ]
        arguments[name] = tuple(values) if name == "values" or len(values) != 1 else values[0]
    results = tuple(Result(output.name, _TYPES[output.type.tensorType.dataType][1]) for output in operation.outputs)
    return Step(operation.type, arguments, results)


def _shape(tensor_type: Any) -> tuple[int, ...]:
    return tuple(dimension.constant.size for dimension in tensor_type.dimensions)


def _constant(value: Any) -> Constant:
    tensor_type = value.type.tensorType
    kind, shape = tensor_type.dataType, _shape(tensor_type)
    if value.type.WhichOneof("type") != "tensorType" or kind not in _TYPES:
        raise MeasurementError(
            "the program holds a constant that is not a tensor, which can't be evaluated here", fix=_FIX
        )
    if value.WhichOneof("value") == "blobFileValue":
        return Blob(kind, shape, value.blobFileValue.offset)
    tensor = value.immediateValue.tensor
    field = tensor.WhichOneof("value")
    content = getattr(tensor, field).values
    dtype = _TYPES[kind][1]
    if field == "strings":
        return str(content[0])
    if field == "bytes":
        return np.frombuffer(content, dtype).reshape(shape)
    return np.array(content, dtype).reshape(shape)
