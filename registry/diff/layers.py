"""Which layers' weights are the same in two bundles, without reading any weight.

A manifest's chunks have a border at each tensor, and the head of a weight file says where each tensor is. So a layer is
the same where its tensors have the same names, and the chunks of their bytes the same digests. Core ML's packages name
tensors deep inside their program; of them nothing is known.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate

from registry.bundle.chunks import Chunk
from registry.diff.compare import Side
from registry.diff.contents import Place, Tensor
from registry.diff.gguf_contents import gguf_places
from registry.diff.onnx_contents import onnx_places
from registry.formats.forwards import Span
from targets.errors import BundleError

_LAYER = re.compile(r"(?:^|[./])(?:blk|layers)[./](\d+)[./]")


@dataclass(frozen=True)
class LayerChanges:
    """Numbers of layers, counted from 0. `rest_is_same`: of all tensors of no layer: embedding, head, last norm."""

    same: tuple[int, ...]
    changed: tuple[int, ...]
    rest_is_same: bool


def layer_changes(before: Side, after: Side) -> LayerChanges | None:
    """Return which layers' weights changed.

    None where that can't be known: formats differ, a file is not of its format, or it has no borders at tensors.

    Raises:
        StoreError: a file can't be read.
    """
    if before.manifest.recipe.format != after.manifest.recipe.format:
        return None
    try:
        old, new = _by_layer(before), _by_layer(after)
    except BundleError:
        return None
    layers = sorted((old.keys() | new.keys()) - {_REST})
    if old == {} or new == {} or not layers:
        return None
    same = {part for part in (*layers, _REST) if part in old and old.get(part) == new.get(part)}
    return LayerChanges(
        tuple(part for part in layers if part in same),
        tuple(part for part in layers if part not in same),
        _REST in same,
    )


_REST = -1  # in place of a layer's number
_Digests = tuple[str, ...]


def _by_layer(side: Side) -> dict[int, dict[str, _Digests]]:
    """Return digests of each tensor by its name, by its layer's number; nothing where one of them is not known."""
    found: dict[int, dict[str, _Digests]] = {}
    files = {entry.path: _Borders.of(entry.chunks) for entry in side.manifest.files}
    for name, place in _places(side).items():
        digests = (place.digest,) if isinstance(place, Tensor) else files[place.path].digests(place.span)
        if digests is None:
            return {}
        layer = _LAYER.search(name)
        found.setdefault(_REST if layer is None else int(layer[1]), {})[name] = digests
    return found


def _places(side: Side) -> Mapping[str, Place | Tensor]:
    if side.manifest.recipe.format == "gguf":
        return gguf_places(side.manifest, side.open_file)
    return onnx_places(side.manifest, side.open_file) if side.manifest.recipe.format == "onnx" else {}


@dataclass(frozen=True)
class _Borders:
    """A file's chunks, and where each begins; at last where the file ends."""

    chunks: tuple[Chunk, ...]
    starts: tuple[int, ...]

    @classmethod
    def of(cls, chunks: tuple[Chunk, ...]) -> _Borders:
        return cls(chunks, (*accumulate((chunk.bytes for chunk in chunks), initial=0),))

    def digests(self, span: Span) -> _Digests | None:
        """Return those of the chunks from a span's start to its end; None where no chunk begins at its start."""
        first, last = (bisect_left(self.starts, place) for place in (span.offset, span.offset + span.bytes))
        if first >= len(self.chunks) or self.starts[first] != span.offset:
            return None
        return tuple(chunk.sha256 for chunk in self.chunks[first:last])
