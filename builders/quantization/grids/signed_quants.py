"""Q6_K, and Q3_K without an importance: ggml's bytes, by a compiled search.

A block has 16 groups of 16 weights: see `ggml_blocks`. A group's scale is searched for; the one of the largest
magnitude makes the block's float16, and those of the groups become 8 or 6 bits. Source: `quantize_row_q6_K_ref` and
`quantize_row_q3_K_ref` in ggml's src/ggml-quants.c. When it is used, and when ggml's own code: see `k_quants`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from builders.quantization.grids.ggml_blocks import CODECS
from targets.storage.gguf import BlockType

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

_GROUP = 16


@dataclass(frozen=True)
class SignedSearch:
    """How a type's scales are searched for and stored.

    `effort`: trials to either side (Q6_K), or rounds (Q3_K). `lowest`: of a group's scale as it is stored. `stored`:
    returns the bytes of scales [blocks, 16] from `lowest` up. `places`: of these bytes, and of the float16 after them.
    `takes_importance`: whether it is that of ggml where columns have an importance, too.
    """

    effort: int
    lowest: int
    stored: Callable[[NDArray[np.int32]], Bytes]
    places: tuple[int, int]
    takes_importance: bool


def _in_six_bits(scales: NDArray[np.int32]) -> Bytes:
    """Return 12 bytes: the low four bits as nibbles of 8 bytes, the upper two in 4."""
    few = (scales + 32).astype(np.uint8)
    low, upper = few & 15, few >> 4
    high = np.zeros((len(few), 4), np.uint8)
    for quarter in range(4):
        high |= upper[:, 4 * quarter : 4 * quarter + 4] << np.uint8(2 * quarter)
    return np.concatenate([low[:, :8] | low[:, 8:] << 4, high], axis=1)


SEARCHES = {
    "Q6_K": SignedSearch(9, -128, lambda scales: scales.astype(np.int8).view(np.uint8), (192, 208), True),
    "Q3_K": SignedSearch(5, -32, _in_six_bits, (96, 108), False),
}


def encoded(
    rows: Floats, kind: BlockType, search: SignedSearch, importance: Floats | None
) -> tuple[Bytes, NDArray[np.bool_]]:
    """Encode rows [rows, columns], with an importance of each column or without one.

    Returns:
        [rows, bytes of a row], and [rows] which of them are as ggml's: not those with a group of scale 0.
    """
    from builders.quantization.kernels.signed_search import search_q3, search_q6, signed_codes

    codec = CODECS[kind.name]
    groups = np.ascontiguousarray(rows).reshape(-1, _GROUP)
    top = np.float32(-codec.levels[0])
    found = np.empty(len(groups), np.float32)
    if kind.name == "Q6_K":
        search_q6(groups, _counts(importance, len(rows)), top, search.effort, found)
    else:
        search_q3(groups, top, search.effort, found)
    halves, scales = _scales(found.reshape(-1, kind.length // _GROUP), search)
    steps = (halves.astype(np.float32)[:, None] * scales.astype(np.float32)).reshape(-1)
    right = steps != 0
    codes = np.empty(groups.shape, np.uint8)
    signed_codes(groups, np.where(right, steps, np.float32(1)), top, codes)
    blocks = np.zeros((len(halves), kind.bytes), np.uint8)
    at, after = search.places
    stored = search.stored(scales)
    blocks[:, at : at + stored.shape[1]] = stored
    blocks[:, after : after + 2] = halves.astype("<f2").view(np.uint8).reshape(-1, 2)
    made = codec.with_codes(blocks, codes.reshape(len(blocks), -1)).reshape(len(rows), -1)
    return made, np.all(right.reshape(len(rows), -1), axis=1)


def _counts(importance: Floats | None, rows: int) -> Floats:
    """Return how much the squared error of each weight counts, [groups, 16]; [0, 16] where ggml decides that."""
    if importance is None:
        return np.empty((0, _GROUP), np.float32)
    return np.tile(np.asarray(importance, np.float32), rows).reshape(-1, _GROUP)


def _scales(found: Floats, search: SignedSearch) -> tuple[NDArray[np.float16], NDArray[np.int32]]:
    """Return the float16 of each block [blocks], and its groups' scales [blocks, 16]; 0 where one is not finite."""
    found = np.where(np.all(np.isfinite(found), axis=1, keepdims=True), found, np.float32(0))
    largest = np.take_along_axis(found, np.abs(found).argmax(axis=1)[:, None], axis=1)
    inverses = np.divide(np.float32(search.lowest), largest, out=np.zeros_like(largest), where=largest != 0)
    scales = np.clip(np.rint(inverses * found), search.lowest, -search.lowest - 1)
    halves = np.divide(np.float32(1), inverses, out=np.zeros_like(inverses), where=inverses != 0)
    return halves[:, 0].astype(np.float16), scales.astype(np.int32)
