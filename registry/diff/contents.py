"""What a weight file contains, tensor by tensor, read from the file's own directory without its format's library.

`gguf_contents.py`, `onnx_contents.py` and `coreml_contents.py` read one format each. Everything is read once, forwards,
from any stream (`registry/formats/`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO

from registry.bundle.manifest import FileEntry
from registry.formats.forwards import Span

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


@dataclass(frozen=True)
class Contents:
    """Tensors by name, and the file's other keys: short values as they are, others by digest."""

    tensors: Mapping[str, Tensor]
    keys: Mapping[str, str] = field(default_factory=dict)
