"""Which keys each query sees: causal, within the sliding window, and in Phi-3-small's sparse layers block by block."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from targets.architecture import Architecture, BlockSparse

if TYPE_CHECKING:
    from torch import Tensor


class Masks:
    """Masks of sequences of one length, in tokens, made when a layer first asks."""

    def __init__(self, architecture: Architecture, length: int) -> None:
        self._architecture = architecture
        self._length = length

    def of_layer(self, layer: int) -> Tensor:
        """Give a layer's mask: True where a query (row) sees a key (column), [T, T], or [heads, T, T] if sparse."""
        sparse = self._architecture.effective_sparsity(self._length)
        return self._sparse if sparse is not None and sparse.is_sparse(layer) else self._dense

    @cached_property
    def _dense(self) -> Tensor:
        import torch

        rows, columns = torch.arange(self._length)[:, None], torch.arange(self._length)[None, :]
        seen = columns <= rows
        if self._architecture.sliding_window is not None:
            seen &= rows - columns < self._architecture.sliding_window
        return seen

    @cached_property
    def _sparse(self) -> Tensor:
        import torch

        sparse = self._architecture.block_sparse
        assert sparse is not None
        blocks = torch.arange(self._length) // sparse.block_size
        patterns = _block_patterns(sparse, self._architecture.head_count, int(blocks[-1]) + 1)
        return patterns[:, blocks[:, None], blocks[None, :]] & self._dense


def _block_patterns(sparse: BlockSparse, heads: int, count: int) -> Tensor:
    """True where blocks of queries see blocks of keys, causality aside: [heads, count, count]."""
    import torch

    numbers = torch.arange(count)
    local = numbers[:, None] - numbers[None, :] < sparse.local_blocks
    stripes = (numbers[None, :] + torch.arange(heads)[:, None] + 1) % sparse.vertical_stride == 0
    return local[None] | stripes[:, None, :]
