"""IQ4_NL and IQ4_XS: ggml's bytes, by a compiled search.

Groups of 32 weights have a scale each: a float16 in IQ4_NL, whose blocks are the groups; in IQ4_XS, whose blocks have 8
groups, 6 bits of a float16. Without an importance, the squared error of a weight x counts x²; with one, that times
sqrt(2 * mean of x² + x²), the mean over the whole block. Source: `quantize_row_iq4_nl_impl` in ggml's
src/ggml-quants.c. When it is used, and when ggml's own code: see `ggml_search`.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from builders.quantization.grids.ggml_blocks import CODECS
from builders.quantization.grids.importance import counts_of
from targets.storage.gguf import BlockType

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

TRIALS = 7  # of grids to either side of the weights' range
_GROUP = 32


def encoded(rows: Floats, kind: BlockType, importance: Floats | None) -> tuple[Bytes, NDArray[np.bool_]]:
    """Encode rows [rows, columns].

    Returns:
        [rows, bytes of a row], and [rows] which of them are as ggml's: not those with a group of scale 0.
    """
    from builders.quantization.kernels.iq4_search import iq4_codes, search_iq4

    blocks = np.ascontiguousarray(rows).reshape(-1, kind.length)
    groups = blocks.reshape(-1, _GROUP)
    counts = np.square(groups) if importance is None else counts_of(blocks, importance, factor=2, group=_GROUP)[0]
    found = np.empty(len(groups), np.float32)
    search_iq4(groups, counts, _steps(), TRIALS, found)
    heads, scales = (_one_scale if kind.name == "IQ4_NL" else _six_bits)(found.reshape(len(blocks), -1))
    steps = scales.reshape(-1)
    right = np.isfinite(steps) & (steps != 0)
    codes = np.empty(groups.shape, np.uint8)
    iq4_codes(groups, np.divide(np.float32(1), steps, out=np.zeros_like(steps), where=right), _steps(), codes)
    made = np.zeros((len(blocks), kind.bytes), np.uint8)
    made[:, : heads.shape[1]] = heads
    made = CODECS[kind.name].with_codes(made, codes.reshape(len(blocks), -1)).reshape(len(rows), -1)
    return made, np.all(right.reshape(len(rows), -1), axis=1)


@cache
def _steps() -> Floats:
    """Return the border below each of the 16 values, and the step to it: see `search_iq4`."""
    levels = np.asarray(CODECS["IQ4_NL"].levels, np.float32)
    borders = np.append(np.float32(0), (levels[1:] + levels[:-1]) / 2)
    return np.stack([borders, np.append(levels[:1], np.diff(levels))], axis=1)


def _one_scale(found: Floats) -> tuple[Bytes, Floats]:
    """Return the first bytes of blocks of one group, and the scales that codes are chosen for, [blocks, 1]."""
    halves = found.astype(np.float16)
    return halves.astype("<f2").view(np.uint8), found


def _six_bits(found: Floats) -> tuple[Bytes, Floats]:
    """Return the first bytes of blocks of 8 groups, and the scales that codes are chosen for, [blocks, 8]."""
    found = np.where(np.isfinite(found), found, np.float32(0))
    largest = np.take_along_axis(found, np.abs(found).argmax(axis=1)[:, None], axis=1)
    wide = -largest / np.float32(32)
    inverses = np.divide(np.float32(1), wide, out=np.zeros_like(wide), where=wide != 0)
    whole = np.clip(np.rint(inverses * found), -32, 31)
    few = (whole + 32).astype(np.uint8)
    low, high = few & 15, few >> 4
    nibbles = low[:, 0::2] | low[:, 1::2] << 4
    upper = np.zeros((len(few), 2), np.uint8)
    for group in range(8):
        upper[:, group // 4] |= high[:, group] << np.uint8(2 * (group % 4))
    head = [wide.astype("<f2").view(np.uint8), upper, nibbles]
    return np.concatenate(head, axis=1), wide * whole
