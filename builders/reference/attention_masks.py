"""Which keys each query sees: causal, within the sliding window, and in Phi-3-small's sparse layers block by block.

Masks are made for a slice of queries at a time: whole, those of 32 heads over 8,192 tokens would take 8 GiB in float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from targets.architecture import Architecture, BlockSparse

if TYPE_CHECKING:
    from torch import Tensor


def seen_keys(architecture: Architecture, layer: int, start: int, stop: int) -> Tensor:
    """Say what queries at positions [start, stop) of a layer see of the keys at [0, stop).

    True where a query (row) sees a key (column): [stop - start, stop], or [heads, stop - start, stop] if sparse.
    """
    import torch

    queries, keys = torch.arange(start, stop)[:, None], torch.arange(stop)[None, :]
    seen = keys <= queries
    if architecture.sliding_window is not None:
        seen &= queries - keys < architecture.sliding_window
    sparse = architecture.effective_sparsity(stop)
    if sparse is None or not sparse.is_sparse(layer):
        return seen
    return seen & _within_blocks(sparse, architecture.head_count, queries, keys)


def _within_blocks(sparse: BlockSparse, heads: int, queries: Tensor, keys: Tensor) -> Tensor:
    """True where the blocks of queries [Q, 1] see those of keys [1, K], causality aside: [heads, Q, K]."""
    import torch

    query_blocks, key_blocks = queries // sparse.block_size, keys // sparse.block_size
    local = query_blocks - key_blocks < sparse.local_blocks
    stripes = (key_blocks + torch.arange(heads)[:, None] + 1) % sparse.vertical_stride == 0
    return local[None] | stripes[:, None, :]
