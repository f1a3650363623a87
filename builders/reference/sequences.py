"""Several sequences that grow: what they have read is kept as keys and values, and a walk over the layers reads on.

A walk computes the new tokens alone, a few of each sequence together, so that each layer's weights are read once for
all of them. Weights of a small model stay in memory between walks; those of a large one are read again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from builders.checkpoint import TensorSource
from builders.reference.attention_masks import seen_keys
from builders.reference.forward import QUERIES, Layer, apply_norm, read_weights, rotary_tables, rotated
from targets.architecture import Architecture

if TYPE_CHECKING:
    from torch import Tensor

RESIDENT_BYTES = 1 << 30  # of a model's weights in float32, up to which they stay in memory
CACHE_BYTES = 2 << 30  # of the keys and values of sequences that grow together


@dataclass
class _Sequence:
    """A sequence's cosines and sines [room, rotary_dim / 2], and of each layer keys, turned, and values."""

    cosines: Tensor
    sines: Tensor
    keys: Tensor  # [layers, heads, room, head size]
    values: Tensor
    length: int = 0


class Sequences:
    """Sequences that are read on, a few tokens of each at a time.

    Memory: 8 bytes for each layer and element of a key, for each token that a sequence may have (its room), and the
    weights of one layer, or of all where the model is small.
    """

    def __init__(self, architecture: Architecture, source: TensorSource, rooms: Sequence[int]) -> None:
        """Start empty sequences. A room is the most tokens of one: it decides longrope's factors."""
        self._architecture = architecture
        self._source = source
        self._sequences = [_empty(architecture, room) for room in rooms]
        self.is_resident = weight_bytes(architecture) <= RESIDENT_BYTES
        self._kept: dict[str, dict[str, Tensor]] = {}

    def length(self, number: int) -> int:
        """Return how many tokens of a sequence were read."""
        return self._sequences[number].length

    def cut(self, number: int, length: int) -> None:
        """Forget all tokens of a sequence but the first."""
        self._sequences[number].length = min(length, self._sequences[number].length)

    def share(self, number: int, others: Iterable[int]) -> None:
        """Have other sequences begin with what one has read. Those with other factors of longrope stay as they are."""
        import torch

        source = self._sequences[number]
        length = source.length
        for other in (self._sequences[place] for place in others):
            if torch.equal(other.cosines[:length], source.cosines[:length]):
                other.keys[:, :, :length], other.values[:, :, :length] = (
                    source.keys[:, :, :length],
                    source.values[:, :, :length],
                )
                other.length = length

    def read(self, new: Mapping[int, Sequence[int]]) -> dict[int, NDArray[np.float32]]:
        """Read further tokens of some sequences, at least one of each, in one walk over the layers.

        Returns the hidden states after the last norm, [new tokens, hidden], of each.
        """
        import torch

        architecture = self._architecture
        ids = np.concatenate([np.asarray(tokens, np.int64) for tokens in new.values()])
        states = self._source.rows("model.embed_tokens.weight", ids)
        states *= np.float32(architecture.embedding_multiplier)
        rows = torch.from_numpy(states)
        with torch.inference_mode():
            for number in range(architecture.layer_count):
                layer = Layer(architecture, number, self._weights(f"model.layers.{number}."))
                layer.run_rows(rows, lambda qkv, attended, layer=layer: self._attend(layer, new, qkv, attended))  # type: ignore[misc]
            norm = self._weights("model.norm.")
            found = apply_norm(rows, norm, "model.norm", architecture.norm_epsilon).numpy()
        for number, tokens in new.items():
            self._sequences[number].length += len(tokens)
        return {number: found[part] for number, part in _parts(new)}

    def _weights(self, prefix: str) -> dict[str, Tensor]:
        if prefix in self._kept:
            return self._kept[prefix]
        weights = read_weights(self._architecture, self._source, prefix)
        if self.is_resident:
            self._kept[prefix] = weights
        return weights

    def _attend(self, layer: Layer, new: Mapping[int, Sequence[int]], qkv: Tensor, attended: Tensor) -> None:
        """Compute attention of all sequences' new tokens, each to its own keys."""
        for number, part in _parts(new):
            sequence = self._sequences[number]
            start, stop = sequence.length, sequence.length + part.stop - part.start
            cosines, sines = sequence.cosines[start:stop], sequence.sines[start:stop]
            q, k, v = layer.split(qkv[part])
            keys, values = sequence.keys[layer.number, :, :stop], sequence.values[layer.number, :, :stop]
            keys[:, start:], values[:, start:] = rotated(k, cosines, sines), v
            out = attended[part]
            q = rotated(q, cosines, sines)
            for first in range(start, stop, QUERIES):
                last = min(first + QUERIES, stop)
                own = slice(first - start, last - start)
                out[own] = _attention(self._architecture, layer.number, q[:, own], keys[:, :last], values[:, :last])


def weight_bytes(architecture: Architecture) -> int:
    """Return the bytes of all layers' weights in float32."""
    shapes = architecture.tensor_shapes()
    return sum(4 * int(np.prod(shape)) for name, shape in shapes.items() if name.startswith("model.layers."))


def cache_bytes(architecture: Architecture, tokens: int) -> int:
    """Return the bytes of keys and values of so many tokens."""
    return 2 * 4 * architecture.layer_count * architecture.kv_width * tokens


def _empty(architecture: Architecture, room: int) -> _Sequence:
    import torch

    cosines, sines = (torch.from_numpy(table) for table in rotary_tables(architecture, room))
    shape = (architecture.layer_count, architecture.kv_head_count, room, architecture.head_dim)
    return _Sequence(cosines, sines, torch.empty(shape), torch.empty(shape))


def _parts(new: Mapping[int, Sequence[int]]) -> Iterator[tuple[int, slice]]:
    """Yield where each sequence's tokens are among all."""
    start = 0
    for number, tokens in new.items():
        yield number, slice(start, start + len(tokens))
        start += len(tokens)


def _attention(architecture: Architecture, layer: int, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Return what the last tokens see [n, query width]: queries [heads, n, d], keys and values [kv heads, T, d]."""
    import torch

    heads, count, width = q.shape
    groups, length = len(keys), keys.shape[1]
    together = q.reshape(groups, heads // groups * count, width)  # the heads that share keys
    scores = torch.matmul(together, keys.transpose(1, 2)).view(heads, count, length)
    scores *= architecture.score_scale
    if count > 1 or architecture.sliding_window is not None or architecture.block_sparse is not None:
        scores.masked_fill_(~seen_keys(architecture, layer, length - count, length), -torch.inf)
    seen = torch.matmul(scores.softmax(-1).view(groups, -1, length), values)
    return seen.view(heads, count, width).transpose(0, 1).flatten(1)
