"""What rounding alone does to a checkpoint's answers: the reference with coarser numbers, as a yardstick for bundles.

Weights are rounded to nearest in blocks of 32 with one scale each, which is the plainest of all recipes, and the
states after each layer to float16's 11 significant bits. Where weights have 8 bits, what they are multiplied with is
rounded in the same way, as llama.cpp and onnxruntime do it; with fewer bits the weights are all that counts. No
converter and no runtime has a part in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from builders.checkpoint import TensorSource
from builders.reference.forward import Layer, LayerWalk
from builders.reference.products import product
from targets.architecture import Architecture

if TYPE_CHECKING:
    from torch import Tensor

    from builders.checkpoint import Checkpoint

_BLOCK = 32
_WHOLE_BITS = 16  # from here on weights are left as they are
_EIGHT_BITS = 8  # to which runtimes round what such weights are multiplied with
_SIGNIFICANT = np.float32(1 << 11)  # float16's
_HEAD_ROWS = 8192  # in float32 at a time
_PIECE_ELEMENTS = 1 << 16  # rounded at a time: what the processor's cache holds


def rounded_logits(checkpoint: Checkpoint, tokens: NDArray[np.int64], bits: int) -> NDArray[np.float32]:
    """Return logits [T, vocabulary] after each of T tokens, with weights of so many bits.

    Memory: as the reference's forward pass. Time: one walk over the layers.
    """
    architecture = checkpoint.architecture
    source = _RoundedSource(checkpoint.open_tensors(), bits)
    walk = (_RoundedWalk if bits == _EIGHT_BITS else LayerWalk)(architecture, source, tokens[None])
    for layer in range(architecture.layer_count):
        walk.run(layer)
        walk.states[...] = _float16_like(walk.states)
    states = walk.finish()[0]
    return _logits(architecture, source, _rounded_rows(states, _most(bits)) if bits == _EIGHT_BITS else states)


def _logits(architecture: Architecture, source: TensorSource, states: NDArray[np.float32]) -> NDArray[np.float32]:
    rows = architecture.vocabulary_size
    parts = [np.arange(start, min(start + _HEAD_ROWS, rows)) for start in range(0, rows, _HEAD_ROWS)]
    logits = np.concatenate([states @ source.rows(architecture.head_tensor, part).T for part in parts], axis=1)
    logits /= architecture.logit_divisor
    logits[:, list(architecture.hidden_token_ids)] = -np.inf
    return logits


class _RoundedWalk(LayerWalk):
    """A walk whose products round rows to 8 bits."""

    @property
    def _layer(self) -> type[Layer]:
        return _RoundedLayer


class _RoundedLayer(Layer):
    def _product(self, rows: Tensor, name: str, bias: Tensor | None) -> Tensor:
        import torch

        given = _rounded_rows(np.ascontiguousarray(rows.numpy()), _most(_EIGHT_BITS))
        return product(torch.from_numpy(given), self.weights[name], bias)


class _RoundedSource:
    """A `TensorSource` whose matrices have few bits."""

    def __init__(self, source: TensorSource, bits: int) -> None:
        self._source = source
        self._most = None if bits >= _WHOLE_BITS else _most(bits)

    def tensor(self, name: str) -> NDArray[np.float32]:
        return self._rounded(self._source.tensor(name))

    def stored_tensor(self, name: str) -> NDArray[np.float32]:
        return self._rounded(self._source.stored_tensor(name))

    def rows(self, name: str, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._rounded(self._source.rows(name, ids))

    def _rounded(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        if self._most is None or values.ndim < 2:
            return values
        rows = values.reshape(-1, values.shape[-1])
        found = np.empty(rows.shape, np.float32)
        step = max(1, _PIECE_ELEMENTS // rows.shape[1])
        for start in range(0, len(rows), step):
            found[start : start + step] = _rounded_rows(rows[start : start + step], self._most)
        return found.reshape(values.shape)


def _most(bits: int) -> int:
    """Return the largest of the whole numbers of so many bits."""
    return (1 << (bits - 1)) - 1


def _rounded_rows(rows: NDArray[np.float32], most: int) -> NDArray[np.float32]:
    """Return rows in blocks of whole numbers up to `most`, with a scale each."""
    columns = rows.shape[1]
    padding = -columns % _BLOCK
    whole = np.pad(rows, ((0, 0), (0, padding))) if padding else rows
    blocks = whole.reshape(-1, _BLOCK)
    scales = np.abs(blocks).max(-1, keepdims=True) / np.float32(most)
    scales[scales == 0] = 1
    rounded = blocks / scales
    np.rint(rounded, out=rounded)
    rounded *= scales
    return rounded.reshape(-1, columns + padding)[:, :columns]


def _float16_like(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Round to float16's precision, whatever the magnitude: what overflows there is another matter."""
    fractions, exponents = np.frexp(values)
    return np.ldexp(np.rint(fractions * _SIGNIFICANT) / _SIGNIFICANT, exponents)
