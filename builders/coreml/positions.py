"""The tokens of a call as MIL ops: their positions, what they may see, and how their heads are rotated.

The length of a call and of the whole sequence are taken from the shapes of the inputs. The rotation's cosines and sines
are constants of the program, looked up by position.

longrope: the short factors hold while all n tokens fit in the original context (the edge), the long ones beyond it, for
earlier tokens too: each call takes the factors of its n. What was cached with the short factors is useless beyond the
edge, and rotating the keys again would not help, since every layer's input changed. So the call that passes the edge
must take the whole sequence.
"""

from __future__ import annotations

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
    end: Any  # int32 [1]: n
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
    seen = _mask(mb, architecture, rows, columns, mask)
    sparse = _sparse_mask(mb, architecture, context_length, (start, end), seen)
    edge = architecture.longrope_edge(context_length)
    if edge is not None:
        is_long = mb.greater(x=end, y=np.array([edge], np.int32), name="is_long")
        # The short table comes after the long one.
        below = np.array([context_length], np.int32)
        first = mb.select(cond=is_long, a=np.zeros(1, np.int32), b=below, name="first_row")
        rows = mb.add(x=rows, y=first, name="table_rows")
    cosines, sines = (
        mb.expand_dims(x=mb.gather(x=table, indices=rows, axis=0), axes=[1])
        for table in _tables(mb, architecture, context_length)
    )
    return Call(start, end, _of_group(mb, architecture, seen), sparse, cosines, sines)


def _tables(mb: Any, architecture: Architecture, context_length: int) -> tuple[Any, Any]:
    """Return cosines and sines [context, r / 2], a row a position; then the short factors' rows, if needed."""
    parts = [rotary_tables(architecture, context_length)]
    edge = architecture.longrope_edge(context_length)
    if edge is not None:
        parts.append(rotary_tables(architecture, edge))
    cosines, sines = (np.concatenate(tables).astype(TABLE_DTYPE) for tables in zip(*parts, strict=True))
    return mb.const(val=cosines, name="cosine_table"), mb.const(val=sines, name="sine_table")


def _mask(mb: Any, architecture: Architecture, rows: Any, columns: Any, given: Any) -> Any:
    """Return the app's mask with the future, and what is behind the sliding window, hidden: [1, 1, q, n]."""
    behind = mb.sub(x=mb.expand_dims(x=rows, axes=[1]), y=mb.expand_dims(x=columns, axes=[0]), name="distance")
    hidden = mb.less(x=behind, y=np.int32(0), name="is_future")
    if architecture.effective_window is not None:
        too_far = mb.greater_equal(x=behind, y=np.int32(architecture.effective_window), name="is_behind_window")
        hidden = mb.logical_or(x=hidden, y=too_far, name="is_hidden")
    nothing, hide = np.zeros((1, 1), np.float16), np.full((1, 1), HIDDEN_SCORE)
    own = mb.select(cond=hidden, a=hide, b=nothing, name="own_mask")
    return mb.add(x=own, y=given, name="mask")


def _of_group(mb: Any, architecture: Architecture, mask: Any) -> Any:
    """Repeat the mask's rows: query heads that share a key head are further rows, so that keys are never repeated."""
    group = architecture.head_count // architecture.kv_head_count
    return mb.concat(values=[mask] * group, axis=2, name="mask_of_group") if group > 1 else mask


def _sparse_mask(
    mb: Any, architecture: Architecture, context_length: int, ends: tuple[Any, Any], mask: Any
) -> Any | None:
    """Hide, on top of [1, 1, q, n], what each head of a block-sparse layer skips: [1, K, g q, n].

    None where no sequence of the context is long enough for anything to be skipped.
    """
    sparse = architecture.effective_sparsity(context_length)
    if sparse is None:
        return None
    start, end = ends
    blocks = mb.const(val=np.arange(context_length, dtype=np.int32) // sparse.block_size, name="block_of_position")
    of_queries = mb.slice_by_index(x=blocks, begin=start, end=end, name="query_blocks")
    of_keys = mb.slice_by_index(x=blocks, begin=[0], end=end, begin_mask=[True], name="key_blocks")
    behind = mb.sub(x=mb.expand_dims(x=of_queries, axes=[1]), y=mb.expand_dims(x=of_keys, axes=[0]))
    is_local = mb.less(x=behind, y=np.int32(sparse.local_blocks), name="is_local")
    kv_heads, group = architecture.kv_head_count, architecture.head_count // architecture.kv_head_count
    heads = np.arange(1, architecture.head_count + 1, dtype=np.int32).reshape(kv_heads, group, 1, 1)
    stripes = mb.mod(x=mb.add(x=of_keys, y=heads), y=np.int32(sparse.vertical_stride))
    is_seen = mb.logical_or(x=is_local, y=mb.equal(x=stripes, y=np.int32(0)), name="is_seen")
    nothing, hide = np.zeros((1, 1, 1, 1), np.float16), np.full((1, 1, 1, 1), HIDDEN_SCORE)
    by_head = mb.add(x=mb.select(cond=is_seen, a=nothing, b=hide), y=mask)
    return mb.reshape(x=by_head, shape=[1, kv_heads, -1, 0], name="sparse_mask")
