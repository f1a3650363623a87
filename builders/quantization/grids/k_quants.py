"""Q4_K and Q5_K: ggml's bytes, by a compiled search.

A block has 8 groups of 32 weights: see `ggml_blocks`. A group's scale and minimum are searched for. Without an
importance, the largest of a block are its two float16, divided by 63, and those of a group become 6 bits; with one,
these are searched for, too. Source: `quantize_row_q4_K_ref` and `quantize_row_q4_K_impl`, and those of Q5_K, in ggml's
src/ggml-quants.c. When it is used, and when ggml's own code: see `ggml_search`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from builders.quantization.grids.ggml_blocks import CODECS
from builders.quantization.grids.importance import counts_of
from targets.storage.gguf import BlockType

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

_LARGEST = np.float32(63)  # of a group's scale and minimum
_GROUP = 32


def widths(first: float, step: float, steps: int) -> Floats:
    """Return how much wider than the codes' range each trial is, in float32 as ggml computes it."""
    return np.float32(first) + np.float32(step) * np.arange(steps + 1, dtype=np.float32)


PLAIN = {"Q4_K": widths(-1.0, 0.1, 20), "Q5_K": widths(-0.5, 0.1, 15)}
CALIBRATED = widths(-0.9, 0.05, 36)


def encoded(rows: Floats, kind: BlockType, importance: Floats | None) -> tuple[Bytes, NDArray[np.bool_]]:
    """Encode rows [rows, columns].

    Returns:
        [rows, bytes of a row], and [rows] which of them are as ggml's: not those with a group of scale 0.
    """
    from builders.quantization.kernels.k_search import codes_of, search_k

    codec = CODECS[kind.name]
    blocks = np.ascontiguousarray(rows).reshape(-1, kind.length)
    groups = blocks.reshape(-1, _GROUP)
    if importance is None:
        tried, counts, sums = PLAIN[kind.name], np.empty((0, _GROUP), np.float32), np.empty((0, 8), np.float32)
    else:
        tried, (counts, sums) = CALIBRATED, counts_of(blocks, importance, factor=2, group=_GROUP)
    top = np.float32(len(codec.levels) - 1)
    found = np.empty((2, len(groups)), np.float32)
    search_k(groups, counts, top, tried, found)
    heads, scales, minima = _heads(found.reshape(2, -1, 8), sums)
    steps = scales.reshape(-1) != 0
    codes = np.empty(groups.shape, np.uint8)
    codes_of(groups, np.where(steps, scales.reshape(-1), np.float32(1)), minima.reshape(-1), top, codes)
    made = np.zeros((len(heads), kind.bytes), np.uint8)
    made[:, : heads.shape[1]] = heads
    made = codec.with_codes(made, codes.reshape(len(blocks), -1)).reshape(len(rows), -1)
    return made, steps.reshape(len(rows), -1).all(axis=1)


def _heads(found: Floats, sums: Floats) -> tuple[Bytes, Floats, Floats]:
    """Return the first 16 bytes of blocks, and what they say: scales and negated minima [blocks, 8].

    `found`: scales and negated minima [2, blocks, 8]. `sums`: how much each group counts, [blocks, 8]; [0, 8]: see
    above. A block with NaN gets scales of 0.
    """
    found = np.where(np.isfinite(found[0]).all(axis=1)[:, None], found, np.float32(0))
    halves, whole = _searched(found, sums) if len(sums) else _divided(found)
    scales, minima = halves.astype(np.float32)[..., None] * whole
    few = whole.astype(np.uint8)
    low, high = few[:, :, :4], few[:, :, 4:]
    packed = [low[0] | high[0] >> 4 << 6, low[1] | high[1] >> 4 << 6, high[0] & 15 | (high[1] & 15) << 4]
    head = np.ascontiguousarray(halves.T).astype("<f2").view(np.uint8)
    return np.concatenate([head, *packed], axis=1), scales, minima


def _divided(found: Floats) -> tuple[NDArray[np.float16], Floats]:
    """Return the float16 of scales and of minima [2, blocks], and the 6 bits of each: the largest has 63."""
    largest = np.maximum(found.max(axis=2), 0)
    inverses = np.divide(_LARGEST, largest, out=np.zeros_like(largest), where=largest > 0)
    whole = np.minimum(np.rint(inverses[..., None] * found), _LARGEST)
    return (largest / _LARGEST).astype(np.float16), whole


def _searched(found: Floats, sums: Floats) -> tuple[NDArray[np.float16], Floats]:
    """Return the same with the least error, where groups count by `sums`; scales of 0 where ggml has to decide."""
    from builders.quantization.kernels.scale_codes import scale_codes

    wide, whole = np.empty(found.shape[:2], np.float32), np.empty_like(found)
    for values, scales, codes in zip(found, wide, whole, strict=True):
        scale_codes(values, sums, _LARGEST, scales, codes)
    unsure = ~np.isfinite(wide).all(axis=0)
    wide[:, unsure], whole[:, unsure] = 0, 0
    return wide.astype(np.float16), whole
