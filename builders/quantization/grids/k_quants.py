"""K-quants: ggml's bytes, by compiled searches that are many times as fast as ggml's own.

Q4_K and Q5_K are here, Q6_K and Q3_K in `signed_quants`, IQ4_NL and IQ4_XS in `iq4_quants`. A block of the first two
has 8 groups of 32 weights: see `ggml_blocks`. A group's scale and minimum are searched for. Without an importance, the
largest of a block are its two float16, divided by 63, and those of a group become 6 bits; with one, these are searched
for, too. Source: `quantize_row_q4_K_ref` and `quantize_row_q4_K_impl`, and those of Q5_K, in ggml's src/ggml-quants.c.

ggml's own bits depend on its compiler: the usual one for x86-64 fuses no multiplication with an addition, others may.
So ggml itself decides: once in a process both encode the same weights, and where their bytes differ, ggml's code is
used. It is also used for rows with a block that has a group of scale 0, which keeps the codes of a trial, and for the
types that have no search here.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from builders.quantization.ggml_library import check_magnitude, encode, encode_rows, in_slices
from builders.quantization.grids import iq4_quants
from builders.quantization.grids.ggml_blocks import CODECS
from builders.quantization.grids.signed_quants import SEARCHES, encoded
from targets.storage.gguf import TYPES, BlockType

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

_LARGEST = np.float32(63)  # of a group's scale and minimum
_SAMPLE_ROWS = 64


def _widths(first: float, step: float, steps: int) -> Floats:
    """Return how much wider than the codes' range each trial is, in float32 as ggml computes it."""
    return np.float32(first) + np.float32(step) * np.arange(steps + 1, dtype=np.float32)


_PLAIN = {"Q4_K": _widths(-1.0, 0.1, 20), "Q5_K": _widths(-0.5, 0.1, 15)}
_CALIBRATED = dict.fromkeys(_PLAIN, _widths(-0.9, 0.05, 36))


def encode_matrix(values: Floats, kind: BlockType, *, name: str, importance: Floats | None = None) -> Bytes:
    """Encode values: see `ggml_library.encode`."""
    if not _is_searched(kind.name, calibrated=importance is not None):
        return encode(values, kind, name=name, importance=importance)
    return in_slices(values, kind, lambda rows: encode_some(rows, kind, name=name, importance=importance))


def encode_some(rows: Floats, kind: BlockType, *, name: str, importance: Floats | None = None) -> Bytes:
    """Encode a few rows on this thread: see `ggml_library.encode_rows`."""
    if not _is_searched(kind.name, calibrated=importance is not None):
        return encode_rows(rows, kind, name=name, importance=importance)
    check_magnitude(rows, kind, name)
    return _encoded(rows, kind, name, importance)


def _is_searched(kind: str, *, calibrated: bool) -> bool:
    """Return whether there is a search for a type, with the bytes of this machine's ggml."""
    signed = kind in SEARCHES and (SEARCHES[kind].takes_importance or not calibrated)
    return (kind in _PLAIN or kind in iq4_quants.TYPES or signed) and _has_ggmls_bytes(kind, calibrated=calibrated)


@cache
def _has_ggmls_bytes(kind: str, *, calibrated: bool) -> bool:
    """Return whether the search gives the bytes of this machine's ggml, for weights with tails and on few values."""
    generator = np.random.default_rng(0)
    sample = generator.standard_t(4, (_SAMPLE_ROWS, 4 * TYPES[kind].length)).astype(np.float32)
    sample[: _SAMPLE_ROWS // 4] = np.rint(sample[: _SAMPLE_ROWS // 4] * 2) / 8
    importance = np.exp(generator.normal(0, 2, sample.shape[1])).astype(np.float32) if calibrated else None
    theirs = encode_rows(sample, TYPES[kind], name="sample", importance=importance)
    return np.array_equal(_encoded(sample, TYPES[kind], "sample", importance), theirs)


def _encoded(rows: Floats, kind: BlockType, name: str, importance: Floats | None = None) -> Bytes:
    """Encode rows [rows, columns]. Returns [rows, bytes of a row]."""
    if kind.name in iq4_quants.TYPES:
        made, right = iq4_quants.encoded(rows, kind, importance)
    elif kind.name in SEARCHES:
        made, right = encoded(rows, kind, SEARCHES[kind.name], importance)
    else:
        made, right = _with_minima(rows, kind, importance)
    if not right.all():
        made[~right] = encode_rows(rows[~right], kind, name=name, importance=importance)
    return made


def _with_minima(rows: Floats, kind: BlockType, importance: Floats | None) -> tuple[Bytes, NDArray[np.bool_]]:
    """Encode rows in Q4_K or Q5_K: see `signed_quants.encoded`."""
    from builders.quantization.kernels.k_search import codes_of, search_k, weigh

    codec = CODECS[kind.name]
    widths = (_PLAIN if importance is None else _CALIBRATED)[kind.name]
    blocks = np.ascontiguousarray(rows).reshape(-1, kind.length)
    groups = blocks.reshape(-1, 32)
    counts, sums = np.empty((0, kind.length), np.float32), np.empty((0, 8), np.float32)
    if importance is not None:
        counts, sums = np.empty_like(blocks), np.empty((len(blocks), 8), np.float32)
        weigh(blocks, np.ascontiguousarray(importance, np.float32).reshape(-1, kind.length), counts, sums)
    top = np.float32(len(codec.levels) - 1)
    found = np.empty((2, len(groups)), np.float32)
    search_k(groups, counts.reshape(-1, 32), top, widths, found)
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
