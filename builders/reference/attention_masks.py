"""Which keys each query sees: causal, within the sliding window, and in Phi-3-small's sparse layers block by block.

Masks are computed for a slice of queries at a time: for 32 heads and 8,192 tokens a whole one would take 8 GiB.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from targets.architecture import Architecture, BlockSparse

if TYPE_CHECKING:
    from torch import Tensor


def seen_keys(architecture: Architecture, layer: int, start: int, stop: int) -> Tensor:
    """Return which keys at [0, stop) the queries at positions [start, stop) of a layer see.

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
    """Return True where the blocks of queries [Q, 1] see those of keys [1, K], without causality: [heads, Q, K]."""
    import torch

    query_blocks, key_blocks = queries // sparse.block_size, keys // sparse.block_size
    local = query_blocks - key_blocks < sparse.local_blocks
    stripes = (key_blocks + torch.arange(heads)[:, None] + 1) % sparse.vertical_stride == 0
    return local[None] | stripes[:, None, :]
