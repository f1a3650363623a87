"""Which blocks of keys a block of queries sees, as SparseAttention reads it: compressed rows (CSR), a pattern a row.

    block_rows     [patterns, blocks + 1]   where the columns of each block of queries start and end
    block_columns  [patterns, widest]       the blocks it sees, in order; padded with -1

Heads take the patterns in turn (source: SparseAttention's schema in onnxruntime's com.microsoft domain). Head h of
Phi-3-small sees blocks by (k + h + 1) % stride, so that head h and head h + stride see the same.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from targets.architecture import Architecture, BlockSparse
from targets.storage.onnx import layout_count

Indices = NDArray[np.int32]


def sparse_indices(architecture: Architecture, sparse: BlockSparse, context_length: int) -> tuple[Indices, Indices]:
    """Return `block_rows` and `block_columns` for sequences of up to `context_length` tokens."""
    blocks = math.ceil(context_length / sparse.block_size)
    query, key = np.arange(blocks)[:, None], np.arange(blocks)[None, :]
    rows, columns = [], []
    for head in range(layout_count(architecture, sparse)):
        far = (key + head + 1) % sparse.vertical_stride == 0
        seen = (key <= query) & ((query - key < sparse.local_blocks) | far)
        rows.append(np.concatenate([[0], np.cumsum(seen.sum(axis=1))]))
        columns.append(np.nonzero(seen)[1])
    filled = np.full((len(columns), max(map(len, columns))), -1, dtype=np.int32)
    for place, values in zip(filled, columns, strict=True):
        place[: len(values)] = values
    return np.stack(rows).astype(np.int32), filled
