"""The tokens of a call as MIL ops: their positions, what they may see, and how their heads are rotated.

The length of a call and of the whole sequence are taken from the shapes of the inputs; in fixed shapes, an input holds
the position of the first new token. The rotation's cosines and sines are constants of the program, looked up by
position.

longrope: the short factors hold while all n tokens fit in the original context (the edge), the long ones beyond it, for
earlier tokens too: each call takes the factors of its n. What was cached with the short factors is useless beyond the
edge, and rotating the keys again would not help, since every layer's input changed. So the call that passes the edge
must take the whole sequence. In fixed shapes no call can take it, and n is not known; there an input says which factors
hold, and a sequence that passes the edge is read again from its beginning, chunk by chunk, with the long ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from builders.reference.forward import rotary_tables
from targets.architecture import Architecture

HIDDEN_SCORE = np.float16(-30000)  # what hides a position: finite, so that nothing added to it makes NaN
TABLE_DTYPE = np.float16


@dataclass(frozen=True)
class Call:
    """What all layers share: q new tokens, n in all, r rotated elements of a head, g query heads a key head.

    MIL variables.
    """

    start: Any  # int32 [1]: tokens in the cache before this call
    end: Any  # int32 [1]: tokens in the cache after it
    attended: Any  # int32 [1]: n; a numpy array where it is fixed
    mask: Any  # float16 [1, 1, g q, n], added to the scores
    sparse_mask: Any  # float16 [1, K, g q, n], the same for block-sparse layers; None where those see everything
    cosines: Any  # float16 [q, 1, r / 2]: of the new tokens, one for all heads
    sines: Any  # the same


def write_call(builder: Any, architecture: Architecture, context_length: int, ids: Any, mask: Any) -> Call:
    """Write the ops that lay out a call. `ids`: int32 [1, q]. `mask`: float16 [1, 1, 1 or q, n]."""
    mb = builder
    length = mb.slice_by_index(x=mb.shape(x=ids, name="ids_shape"), begin=[1], end=[2], name="new_tokens")
    end = mb.slice_by_index(x=mb.shape(x=mask, name="mask_shape"), begin=[3], end=[4], name="end")
    start = mb.sub(x=end, y=length, name="start")
    order = mb.const(val=np.arange(context_length, dtype=np.int32), name="order")
    rows = mb.slice_by_index(x=order, begin=start, end=end, name="query_positions")
    columns = mb.slice_by_index(x=order, begin=[0], end=end, begin_mask=[True], name="key_positions")
    own = _hiding(mb, _hidden(mb, architecture, rows, columns), "own_mask")
    seen = mb.add(x=own, y=mask, name="mask")

    def blocks(of_positions: Any) -> tuple[Any, Any]:
        of_queries = mb.slice_by_index(x=of_positions, begin=start, end=end, name="query_blocks")
        return of_queries, mb.slice_by_index(x=of_positions, begin=[0], end=end, begin_mask=[True], name="key_blocks")

    sparse = _seen_blocks(mb, architecture, context_length, blocks)
    if sparse is not None:
        sparse = _by_key_head(mb, architecture, mb.add(x=_skipping(mb, sparse), y=seen), end)
    edge = architecture.longrope_edge(context_length)
    is_long = None if edge is None else mb.greater(x=end, y=np.array([edge], np.int32), name="is_long")
    rotation = _rotation(mb, architecture, context_length, rows, is_long)
    return Call(start, end, end, _of_group(mb, architecture, seen), sparse, *rotation)


def write_fixed_call(
    builder: Any, architecture: Architecture, context_length: int, length: int, positions: tuple[Any, Any]
) -> Call:
    """Write the ops that lay out a call of a fixed length: n is the context, and positions past the new tokens' hidden.

    `positions`: int32 [1], the tokens cached before the call; and int32 [1], other than 0 where longrope's long factors
    hold, None without an edge.
    """
    mb, (start, long_factors) = builder, positions
    end = mb.add(x=start, y=np.array([length], np.int32), name="end")
    rows = mb.add(x=start, y=np.arange(length, dtype=np.int32), name="query_positions")
    columns = mb.const(val=np.arange(context_length, dtype=np.int32), name="key_positions")
    own = _hiding(mb, _hidden(mb, architecture, rows, columns), "own_mask")
    seen = mb.expand_dims(x=own, axes=[0, 1], name="mask")
    attended = np.array([context_length], np.int32)

    def blocks(of_positions: Any) -> tuple[Any, Any]:
        return mb.gather(x=of_positions, indices=rows, axis=0, name="query_blocks"), of_positions

    sparse = _seen_blocks(mb, architecture, context_length, blocks)
    if sparse is not None:
        sparse = _by_key_head(mb, architecture, mb.add(x=_skipping(mb, sparse), y=seen), attended)
    is_long = None if long_factors is None else mb.not_equal(x=long_factors, y=np.zeros(1, np.int32), name="is_long")
    rotation = _rotation(mb, architecture, context_length, rows, is_long, is_filled_up=True)
    return Call(start, end, attended, _of_group(mb, architecture, seen), sparse, *rotation)


def _rotation(
    mb: Any, architecture: Architecture, context_length: int, rows: Any, is_long: Any, *, is_filled_up: bool = False
) -> tuple[Any, Any]:
    """Return the cosines and sines of positions int32 [q].

    `is_long`: whether the long factors hold; None without an edge. `is_filled_up`: whether positions may lie past the
    edge where the short ones hold, since something fills up a chunk.
    """
    if is_long is not None:
        # The short table comes after the long one.
        below = np.array([context_length], np.int32)
        first = mb.select(cond=is_long, a=np.zeros(1, np.int32), b=below, name="first_row")
        rows = mb.add(x=rows, y=first, name="table_rows")
        if is_filled_up:
            last = context_length + (architecture.longrope_edge(context_length) or 0) - 1
            rows = mb.minimum(x=rows, y=np.array([last], np.int32), name="rows_in_table")
    cosines, sines = (
        mb.expand_dims(x=mb.gather(x=table, indices=rows, axis=0), axes=[1])
        for table in _tables(mb, architecture, context_length)
    )
    return cosines, sines


def _tables(mb: Any, architecture: Architecture, context_length: int) -> tuple[Any, Any]:
    """Return cosines and sines [context, r / 2], a row a position; then the short factors' rows, if needed."""
    parts = [rotary_tables(architecture, context_length)]
    edge = architecture.longrope_edge(context_length)
    if edge is not None:
        parts.append(rotary_tables(architecture, edge))
    cosines, sines = (np.concatenate(tables).astype(TABLE_DTYPE) for tables in zip(*parts, strict=True))
    return mb.const(val=cosines, name="cosine_table"), mb.const(val=sines, name="sine_table")


def _hidden(mb: Any, architecture: Architecture, rows: Any, columns: Any) -> Any:
    """Return what is in the future or behind the sliding window: bool [q, n]."""
    behind = mb.sub(x=mb.expand_dims(x=rows, axes=[1]), y=mb.expand_dims(x=columns, axes=[0]), name="distance")
    hidden = mb.less(x=behind, y=np.int32(0), name="is_future")
    if architecture.effective_window is not None:
        too_far = mb.greater_equal(x=behind, y=np.int32(architecture.effective_window), name="is_behind_window")
        hidden = mb.logical_or(x=hidden, y=too_far, name="is_hidden")
    return hidden


def _hiding(mb: Any, hidden: Any, name: str) -> Any:
    """Return the mask that hides what `hidden` is true for.

    It is a product since coremltools takes the shape of a `select` from its two values alone, and would write that of
    one element where both are scalars.
    """
    return mb.mul(x=mb.cast(x=hidden, dtype="fp16"), y=HIDDEN_SCORE, name=name)


def _skipping(mb: Any, seen: Any) -> Any:
    """Return the mask that hides what `seen` is false for."""
    return _hiding(mb, mb.logical_not(x=seen), "skipped")


def _of_group(mb: Any, architecture: Architecture, mask: Any) -> Any:
    """Repeat the mask's rows: query heads that share a key head are further rows, so that keys are never repeated."""
    group = architecture.head_count // architecture.kv_head_count
    return mb.concat(values=[mask] * group, axis=2, name="mask_of_group") if group > 1 else mask


def _seen_blocks(
    mb: Any, architecture: Architecture, context_length: int, blocks_of_call: Callable[[Any], tuple[Any, Any]]
) -> Any | None:
    """Return what each head of a block-sparse layer does not skip: bool [K, g, q, n].

    None where no sequence of the context is long enough for anything to be skipped. `blocks_of_call`: takes the blocks
    of all positions, and returns those of the queries [q] and of the keys [n].
    """
    sparse = architecture.effective_sparsity(context_length)
    if sparse is None:
        return None
    blocks = mb.const(val=np.arange(context_length, dtype=np.int32) // sparse.block_size, name="block_of_position")
    of_queries, of_keys = blocks_of_call(blocks)
    behind = mb.sub(x=mb.expand_dims(x=of_queries, axes=[1]), y=mb.expand_dims(x=of_keys, axes=[0]))
    is_local = mb.less(x=behind, y=np.int32(sparse.local_blocks), name="is_local")
    kv_heads, group = architecture.kv_head_count, architecture.head_count // architecture.kv_head_count
    heads = np.arange(1, architecture.head_count + 1, dtype=np.int32).reshape(kv_heads, group, 1, 1)
    stripes = mb.mod(x=mb.add(x=of_keys, y=heads), y=np.int32(sparse.vertical_stride))
    return mb.logical_or(x=is_local, y=mb.equal(x=stripes, y=np.int32(0)), name="is_seen")


def _by_key_head(mb: Any, architecture: Architecture, mask: Any, attended: Any) -> Any:
    """Return a mask [K, g, q, n] as [1, K, g q, n].

    n, int32 [1], is part of the new shape: a 0, which keeps a dimension, coremltools declares as one without elements
    where the dimension is not known.
    """
    heads = np.array([1, architecture.kv_head_count, -1], np.int32)
    shape = mb.concat(values=[heads, attended], axis=0, name="sparse_mask_shape")
    return mb.reshape(x=mask, shape=shape, name="sparse_mask")
