"""The specification version of a Core ML model. Source: coremltools' Model.proto (Model.specificationVersion = 1)."""

from __future__ import annotations

from registry.formats.forwards import REPLACE_BUNDLE, Forwards
from registry.formats.protobuf import fields
from targets.errors import BundleError

MODEL_BYTES_LIMIT = 256 << 20
_SPECIFICATION_VERSION = 1


def specification_version(file: Forwards, name: str, size: int) -> int:
    """Read a `model.mlmodel` from its start. Raises `BundleError` where it is damaged, or states no version."""
    if size > MODEL_BYTES_LIMIT:
        raise BundleError(f"{name}: {size} bytes; the limit is {MODEL_BYTES_LIMIT}", fix=REPLACE_BUNDLE)
    found = None
    try:
        for number, value in fields(memoryview(file.take(size))):
            if number == _SPECIFICATION_VERSION and isinstance(value, int):
                found = value
    except (ValueError, IndexError) as error:
        raise BundleError(f"{name}: not a Core ML model that can be read: {error}", fix=REPLACE_BUNDLE) from error
    if found is None:
        raise BundleError(f"{name}: states no specification version", fix=REPLACE_BUNDLE)
    return found
