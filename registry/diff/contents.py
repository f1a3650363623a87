"""What a weight file contains, tensor by tensor, read from the file's own directory without its format's library.

`gguf_contents.py`, `onnx_contents.py` and `coreml_contents.py` read one format each. Everything is read once, forwards,
from any stream (`registry/formats/`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO

from registry.bundle.manifest import FileEntry, Manifest
from registry.formats.forwards import REPLACE_BUNDLE, Span
from targets.errors import BundleError

# Opens one of a bundle's files for reading from its start. Raises `PhipackError`.
Open = Callable[[FileEntry], BinaryIO]


@dataclass(frozen=True)
class Tensor:
    """How a tensor is stored, its shape (slowest axis first), and `sha256:<hex>` of its bytes."""

    storage: str
    shape: tuple[int, ...]
    bytes: int
    digest: str


@dataclass(frozen=True)
class Place:
    """Where a tensor's bytes are: a file of the bundle, by its path, and a part of it."""

    path: str
    span: Span


def require_there(paths: Iterable[str], manifest: Manifest, what: str) -> None:
    """Raise `BundleError` where a file that a graph or a program names is not in the bundle. `what`: is in it."""
    for path in sorted(set(paths) - {entry.path for entry in manifest.files}):
        raise BundleError(f"{what} are in {path}, which is missing from the bundle", fix=REPLACE_BUNDLE)


@dataclass(frozen=True)
class Contents:
    """Tensors by name, and the file's other keys: short values as they are, others by digest."""

    tensors: Mapping[str, Tensor]
    keys: Mapping[str, str] = field(default_factory=dict)
