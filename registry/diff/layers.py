"""Which layers' weights are the same in two bundles, without reading any weight.

A manifest's chunks have a border at each tensor, and the head of a weight file says where each tensor is. So a layer is
the same where its tensors have the same names, and the chunks of their bytes the same digests.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import accumulate

from registry.bundle.chunks import Chunk
from registry.bundle.manifest import Manifest
from registry.diff.compare import Side
from registry.diff.contents import Open, Place, Tensor
from registry.diff.coreml_contents import coreml_places
from registry.diff.gguf_contents import gguf_places
from registry.diff.onnx_contents import onnx_places
from registry.formats.forwards import Span
from targets.errors import BundleError

_READ: Mapping[str, Callable[[Manifest, Open], Mapping[str, Place | Tensor]]] = {
    "gguf": gguf_places,
    "onnx": onnx_places,
    "coreml": coreml_places,
}
# Format -> the beginnings of weights' names, with the layer's number where they are a layer's.
_WEIGHTS = {
    "gguf": re.compile(r"blk\.(\d+)\.|(?:token_embd|output|output_norm)\."),
    "onnx": re.compile(r"model\.layers\.(\d+)\.|(?:model\.embed_tokens|model\.norm|lm_head)\."),
    "coreml": re.compile(r"model_layers_(\d+)_|(?:model_embed_tokens|model_norm|lm_head)(?=[._]|$)"),
}
# Constants that follow from the configuration, the context or a calibration: tables of positions and masks, factors of
# longrope, scales of a KV cache, logits that are hidden, zeros where there is no bias.
_NO_WEIGHTS = re.compile(
    r"rope_factors_|rope_freqs|rotary\.|attention\.|layers\.\d+\.cache_scales|hidden_ids"
    r"|cosine_table|sine_table|order|key_positions|block_of_position|zeros_"
)

_REST = -1  # in place of a layer's number
_Digests = tuple[str, ...]


@dataclass(frozen=True)
class LayerChanges:
    """Numbers of layers, counted from 0. `rest_is_same`: embedding, head and last norm."""

    same: tuple[int, ...]
    changed: tuple[int, ...]
    rest_is_same: bool


def layer_changes(before: Side, after: Side) -> LayerChanges | None:
    """Return which layers' weights changed.

    None where that can't be known: formats differ, a file is not of its format, it has no borders at tensors, or
    something changed of which it is not known whether it is a weight.

    Raises:
        StoreError: a file can't be read.
    """
    format_ = before.manifest.recipe.format
    if format_ != after.manifest.recipe.format:
        return None
    try:
        places = [_places(side) for side in (before, after)]
    except BundleError:
        return None
    if format_ == "coreml" and any(places[1].get(name, place) != place for name, place in places[0].items()):
        return None  # a chunk of a small constant has its place in it
    old, new = (_digests(side, found) for side, found in zip((before, after), places, strict=True))
    parts = None if old is None or new is None else _same_parts(old, new, format_)
    if parts is None or parts.keys() <= {_REST} or _REST not in parts:
        return None
    rest_is_same = parts.pop(_REST)
    return LayerChanges(
        tuple(layer for layer in sorted(parts) if parts[layer]),
        tuple(layer for layer in sorted(parts) if not parts[layer]),
        rest_is_same,
    )


def _same_parts(old: Mapping[str, _Digests], new: Mapping[str, _Digests], format_: str) -> dict[int, bool] | None:
    """Return whether each layer, and the rest of the weights, is the same.

    None where something else changed of which it is not known whether it is a weight.
    """
    parts: dict[int, bool] = {}
    for name in old.keys() | new.keys():
        is_same, weight = old.get(name) == new.get(name), _WEIGHTS[format_].match(name)
        if weight is not None:
            part = _REST if weight[1] is None else int(weight[1])
            parts[part] = parts.get(part, True) and is_same
        elif not is_same and not _NO_WEIGHTS.match(name):
            return None
    return parts


def _digests(side: Side, places: Mapping[str, Place | Tensor]) -> dict[str, _Digests] | None:
    """Return digests of each tensor by its name; None where one of them is not known."""
    found: dict[str, _Digests] = {}
    files = {entry.path: _Borders.of(entry.chunks) for entry in side.manifest.files}
    for name, place in places.items():
        digests = (place.digest,) if isinstance(place, Tensor) else files[place.path].digests(place.span)
        if digests is None:
            return None
        found[name] = digests
    return found


def _places(side: Side) -> Mapping[str, Place | Tensor]:
    return _READ[side.manifest.recipe.format](side.manifest, side.open_file)


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
