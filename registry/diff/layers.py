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
EMBEDDING, HEAD, LAST_NORM = "embedding", "head", "last norm"
# Format -> the beginnings of weights' names, with the layer's number where they are a layer's, or what else they are.
_WEIGHTS = {
    "gguf": re.compile(r"blk\.(\d+)\.|(token_embd|output_norm|output)\."),
    "onnx": re.compile(r"model\.layers\.(\d+)\.|(model\.embed_tokens|model\.norm|lm_head)\."),
    "coreml": re.compile(r"model_layers_(\d+)_|(model_embed_tokens|model_norm|lm_head)(?=[._]|$)"),
}
_PARTS = {
    **dict.fromkeys(("token_embd", "model.embed_tokens", "model_embed_tokens"), EMBEDDING),
    **dict.fromkeys(("output", "lm_head"), HEAD),
    **dict.fromkeys(("output_norm", "model.norm", "model_norm"), LAST_NORM),
}
# Constants that follow from the configuration, the context or a calibration: tables of positions and masks, factors of
# longrope and where it begins, multipliers, scales of a KV cache, logits that are hidden, zeros where there is no bias,
# and numbers that a graph needs.
_NO_WEIGHTS = re.compile(
    r"rope_factors_|rope_freqs|rotary\.|attention\.|layers\.\d+\.cache_scales|hidden_ids"
    r"|cosine_table|sine_table|order|key_positions|block_of_position|zeros_"
    r"|original_context$|(?:zero|one|last_axis)$|embedding_multiplier$|gegelu_(?:low|high|one)$|logit_divisor$|logits_y_0$"
)


@dataclass(frozen=True)
class _Stored:
    """A tensor's bytes, and the digests of its chunks. `padding`: bytes in the last one that are not the tensor's."""

    bytes: int
    digests: tuple[str, ...]
    padding: int = 0

    def may_be(self, other: _Stored | None) -> bool:
        """Return whether two that are not the same may differ in nothing but what comes after them."""
        if other is None or self.padding == other.padding:
            return False
        return self.bytes == other.bytes and self.digests[:-1] == other.digests[:-1]


@dataclass(frozen=True)
class LayerChanges:
    """Numbers of layers, counted from 0. `rest`: which of embedding, head and last norm are others.

    `head_of_one`: one of the two stores a head, and the other one's head is its embedding.
    """

    same: tuple[int, ...]
    changed: tuple[int, ...]
    rest: tuple[str, ...] = ()
    head_of_one: bool = False

    @property
    def is_same(self) -> bool:
        """Whether all weights are the same."""
        return not self.changed and not self.rest and not self.head_of_one


def layer_changes(before: Side, after: Side) -> LayerChanges | None:
    """Return which layers' weights changed.

    None where that can't be known: formats differ, a file is not of its format, it has no borders at tensors, or
    something changed of which it is not known whether it is a weight, or what follows it has moved.

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
    old, new = (_stored(side, found) for side, found in zip((before, after), places, strict=True))
    if old is None or new is None or _is_unknown(old, new, format_):
        return None
    return _changes(_by_part(old, format_), _by_part(new, format_))


def _is_unknown(old: Mapping[str, _Stored], new: Mapping[str, _Stored], format_: str) -> bool:
    """Return whether something changed that may be no weight, or a weight may have that is the same."""
    changed = [name for name in old.keys() | new.keys() if old.get(name) != new.get(name)]
    if any(not _WEIGHTS[format_].match(name) and not _NO_WEIGHTS.match(name) for name in changed):
        return True
    return any(name in old and old[name].may_be(new.get(name)) for name in changed)


_Parts = dict[int | str, dict[str, _Stored]]


def _changes(old: _Parts, new: _Parts) -> LayerChanges | None:
    names = old.keys() | new.keys()
    layers = sorted(name for name in names if isinstance(name, int))
    if not layers or EMBEDDING not in names:
        return None
    changed = {name for name in names if old.get(name) != new.get(name)}
    head_of_one = (HEAD in old) != (HEAD in new)
    if HEAD not in names and EMBEDDING in changed:
        changed.add(HEAD)  # it is the embedding
    return LayerChanges(
        tuple(layer for layer in layers if layer not in changed),
        tuple(layer for layer in layers if layer in changed),
        tuple(name for name in (EMBEDDING, HEAD, LAST_NORM) if name in changed and not (name == HEAD and head_of_one)),
        head_of_one,
    )


def _by_part(found: Mapping[str, _Stored], format_: str) -> _Parts:
    """Return the weights by their names, by the layer's number, or what else they are."""
    parts: _Parts = {}
    for name, stored in found.items():
        if weight := _WEIGHTS[format_].match(name):
            part = _PARTS[weight[2]] if weight[1] is None else int(weight[1])
            parts.setdefault(part, {})[name] = stored
    return parts


def _stored(side: Side, places: Mapping[str, Place | Tensor]) -> dict[str, _Stored] | None:
    """Return each tensor by its name; None where the digests of one are not known."""
    found: dict[str, _Stored] = {}
    files = {entry.path: _Borders.of(entry.chunks) for entry in side.manifest.files}
    for name, place in places.items():
        known = _of_graph(place) if isinstance(place, Tensor) else files[place.path].stored(place.span)
        if known is None:
            return None
        found[name] = known
    return found


def _of_graph(tensor: Tensor) -> _Stored:
    return _Stored(tensor.bytes, (tensor.digest,))


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

    def stored(self, span: Span) -> _Stored | None:
        """Return the chunks from a span's start to its end; None where none begins there, or the file ends before."""
        first, last = (bisect_left(self.starts, place) for place in (span.offset, span.offset + span.bytes))
        if first >= len(self.chunks) or self.starts[first] != span.offset or last == len(self.starts):
            return None
        digests = tuple(chunk.sha256 for chunk in self.chunks[first:last])
        return _Stored(span.bytes, digests, self.starts[last] - span.offset - span.bytes)
