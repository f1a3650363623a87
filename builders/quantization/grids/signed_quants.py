"""Q6_K and Q3_K: ggml's bytes, by a compiled search.

A block has 16 groups of 16 weights: see `ggml_blocks`. A group's scale is searched for. The one of the largest
magnitude makes the block's float16, and those of the groups become 8 or 6 bits; in Q3_K of columns with an importance,
the float16 and the 6 bits are searched for, too. The squared error of a weight x counts x², or its column's importance,
which in Q3_K is multiplied by sqrt(2 * mean of x² + x²), the mean over the whole block. Source: the functions
`quantize_row_q6_K_*` and `quantize_row_q3_K_*` in ggml's src/ggml-quants.c. When it is used, and when ggml's own code:
see `ggml_search`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from builders.quantization.grids.ggml_blocks import CODECS
from builders.quantization.grids.importance import counts_of
from targets.storage.gguf import BlockType

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

TRIALS = 9  # of grids to either side of the weights' range
ROUNDS = 5  # of changes to the codes, in Q3_K without an importance
_GROUP = 16
_PER_BLOCK = 16


@dataclass(frozen=True)
class StoredScales:
    """How a type stores the scales of a block's groups.

    `lowest`: of a scale as it is stored. `stored`: returns the bytes of scales [blocks, 16] from `lowest` up. `places`:
    of these bytes, and of the float16 after them.
    """

    lowest: int
    stored: Callable[[NDArray[np.int32]], Bytes]
    places: tuple[int, int]


def _in_six_bits(scales: NDArray[np.int32]) -> Bytes:
    """Return 12 bytes: the low four bits as nibbles of 8 bytes, the upper two in 4."""
    few = (scales + 32).astype(np.uint8)
    low, upper = few & 15, few >> 4
    high = np.zeros((len(few), 4), np.uint8)
    for quarter in range(4):
        high |= upper[:, 4 * quarter : 4 * quarter + 4] << np.uint8(2 * quarter)
    return np.concatenate([low[:, :8] | low[:, 8:] << 4, high], axis=1)


_STORED = {
    "Q6_K": StoredScales(-128, lambda scales: scales.astype(np.int8).view(np.uint8), (192, 208)),
    "Q3_K": StoredScales(-32, _in_six_bits, (96, 108)),
}


def encoded(rows: Floats, kind: BlockType, importance: Floats | None) -> tuple[Bytes, NDArray[np.bool_]]:
    """Encode rows [rows, columns], with an importance of each column or without one.

    Returns:
        [rows, bytes of a row], and [rows] which of them are as ggml's: not those with a group of scale 0.
    """
    from builders.quantization.kernels.signed_search import codes_by_scale

    codec, form = CODECS[kind.name], _STORED[kind.name]
    blocks = np.ascontiguousarray(rows).reshape(-1, kind.length)
    groups = blocks.reshape(-1, _GROUP)
    top = np.float32(-codec.levels[0])
    if kind.name == "Q3_K":
        halves, scales = _searched_q3(blocks, top, form.lowest, importance)
    else:
        halves, scales = _laid_on_largest(searched(groups, _given(importance, len(rows)), top)[0], form.lowest)
    steps = (halves.astype(np.float32)[:, None] * scales.astype(np.float32)).reshape(-1)
    right = steps != 0
    codes = np.empty(groups.shape, np.uint8)
    codes_by_scale(groups, np.where(right, steps, np.float32(1)), top, codes)
    made = np.zeros((len(halves), kind.bytes), np.uint8)
    at, after = form.places
    stored = form.stored(scales)
    made[:, at : at + stored.shape[1]] = stored
    made[:, after : after + 2] = halves.astype("<f2").view(np.uint8).reshape(-1, 2)
    made = codec.with_codes(made, codes.reshape(len(blocks), -1)).reshape(len(rows), -1)
    return made, np.all(right.reshape(len(rows), -1), axis=1)


def _given(importance: Floats | None, rows: int) -> Floats:
    """Return how much the squared error of each weight counts in Q6_K, [groups, 16]; [0, 16]: its own square."""
    if importance is None:
        return np.empty((0, _GROUP), np.float32)
    return np.tile(np.asarray(importance, np.float32), rows).reshape(-1, _GROUP)


def searched(groups: Floats, given: Floats, top: np.float32) -> tuple[Floats, Floats]:
    """Return the scales of groups and what their codes were found with, both [groups]: see `search_signed`."""
    from builders.quantization.kernels.signed_search import search_signed

    found, inverses = np.empty(len(groups), np.float32), np.empty(len(groups), np.float32)
    search_signed(groups, given, top, TRIALS, found, inverses)
    return found, inverses


def _searched_q3(
    blocks: Floats, top: np.float32, lowest: int, importance: Floats | None
) -> tuple[NDArray[np.float16], NDArray[np.int32]]:
    """Return the float16 of each block of Q3_K [blocks], and its groups' scales [blocks, 16]."""
    from builders.quantization.kernels.signed_search import search_q3

    groups = blocks.reshape(-1, _GROUP)
    if importance is None:
        found = np.empty(len(groups), np.float32)
        search_q3(groups, top, ROUNDS, found)
        return _laid_on_largest(found, lowest)
    counts, sums = counts_of(blocks, importance, factor=2, group=_GROUP)
    scales = searched(groups, counts, top)[0].reshape(-1, _PER_BLOCK)
    wide, inverses = searched(scales, sums, np.float32(-lowest))
    sure = np.isfinite(scales).all(axis=1) & np.isfinite(wide)
    wide, wanted = np.where(sure, wide, np.float32(0)), np.zeros_like(scales)
    np.multiply(inverses[:, None], scales, out=wanted, where=(sure & (wide != 0))[:, None])
    return wide.astype(np.float16), np.clip(np.rint(wanted), lowest, -lowest - 1).astype(np.int32)


def _laid_on_largest(found: Floats, lowest: int) -> tuple[NDArray[np.float16], NDArray[np.int32]]:
    """Return the same, from the scales of groups [groups]; 0 for a block with one that is not finite."""
    found = found.reshape(-1, _PER_BLOCK)
    found = np.where(np.all(np.isfinite(found), axis=1, keepdims=True), found, np.float32(0))
    largest = np.take_along_axis(found, np.abs(found).argmax(axis=1)[:, None], axis=1)
    inverses = np.divide(np.float32(lowest), largest, out=np.zeros_like(largest), where=largest != 0)
    scales = np.clip(np.rint(inverses * found), lowest, -lowest - 1)
    halves = np.divide(np.float32(1), inverses, out=np.zeros_like(inverses), where=inverses != 0)
    return halves[:, 0].astype(np.float16), scales.astype(np.int32)
