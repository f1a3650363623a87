"""SparseAttention's index arrays: they say of each head what the formula says, in the size that was planned."""

from __future__ import annotations

import dataclasses

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from builders.onnx.sparse import sparse_indices
from targets.architecture import BlockSparse
from targets.config_json import read_architecture
from targets.storage.onnx import sparse_arrays
from tests.support.cases import examples
from tests.support.checkpoints import Tiny

SMALL = read_architecture(Tiny(family="phi3small").config())
PATTERNS = st.builds(
    BlockSparse,
    block_size=st.sampled_from([16, 64]),
    local_blocks=st.integers(1, 9),
    vertical_stride=st.integers(1, 9),
    dense_every=st.just(2),
)


@settings(max_examples=examples(60), deadline=None)
@given(PATTERNS, st.sampled_from([1, 2, 4, 6, 8]), st.integers(1, 3000))
def test_each_head_sees_what_the_formula_says(sparse: BlockSparse, heads: int, context: int) -> None:
    small = dataclasses.replace(SMALL, head_count=heads, block_sparse=sparse)
    rows, columns = sparse_indices(small, sparse, context)
    planned = sparse_arrays(small, context)
    if context <= sparse.dense_up_to:
        assert planned == ()
    else:
        assert [(array.dtype, array.shape) for array in planned] == [(a.dtype, a.shape) for a in (rows, columns)]
    assert heads % len(rows) == 0
    for head in range(heads):
        starts, seen = rows[head % len(rows)], columns[head % len(rows)]
        for query in {0, (len(starts) - 1) // 2, len(starts) - 2}:
            expected = [
                key
                for key in range(query + 1)
                if query - key < sparse.local_blocks or (key + head + 1) % sparse.vertical_stride == 0
            ]
            assert np.array_equal(seen[starts[query] : starts[query + 1]], expected)
