"""K-quants without an importance: ggml's bytes, by compiled searches that are many times as fast as ggml's own.

Q4_K and Q5_K are here, Q6_K and Q3_K in `signed_quants`. A block of the former has 8 groups of 32 weights: see
`ggml_blocks`. A group's scale and minimum are searched for; the largest of a block are its two float16, divided by 63,
and those of a group become 6 bits. Source: `quantize_row_q4_K_ref` and `quantize_row_q5_K_ref` in ggml's
src/ggml-quants.c.

ggml's own bits depend on its compiler: the usual one for x86-64 fuses no multiplication with an addition, others may.
So ggml itself decides: once in a process both encode the same weights, and where their bytes differ, ggml's code is
used. It is also used for rows with a block that has a group of scale 0, which keeps the codes of a trial.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from builders.quantization.ggml_library import check_magnitude, encode, encode_rows, in_slices
from builders.quantization.grids.ggml_blocks import CODECS
from builders.quantization.grids.signed_quants import SEARCHES, encoded
from targets.storage.gguf import TYPES, BlockType

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

_LARGEST = np.float32(63)  # of a group's scale and minimum
_SAMPLE_ROWS = 64


@dataclass(frozen=True)
class _Search:
    """The trials of a type: how much wider than the codes' range the first is, and how many come after it."""

    first: float
    steps: int


_SEARCHES = {"Q4_K": _Search(-1.0, 20), "Q5_K": _Search(-0.5, 15)}
_STEP = np.float32(0.1)


def encode_uncalibrated(values: Floats, kind: BlockType, *, name: str) -> Bytes:
    """Encode values with equal importance: see `ggml_library.encode`."""
    if kind.name not in (_SEARCHES | SEARCHES) or not _has_ggmls_bytes(kind.name):
        return encode(values, kind, name=name)

    def work(rows: Floats) -> Bytes:
        check_magnitude(rows, kind, name)
        return _encoded(rows, kind, name)

    return in_slices(values, kind, work)


@cache
def _has_ggmls_bytes(kind: str) -> bool:
    """Return whether the search gives the bytes of this machine's ggml, for weights with tails and on few values."""
    generator = np.random.default_rng(0)
    sample = generator.standard_t(4, (_SAMPLE_ROWS, 4 * TYPES[kind].length)).astype(np.float32)
    sample[: _SAMPLE_ROWS // 4] = np.rint(sample[: _SAMPLE_ROWS // 4] * 2) / 8
    theirs = encode_rows(sample, TYPES[kind], name="sample")
    return np.array_equal(_encoded(sample, TYPES[kind], "sample"), theirs)


def _encoded(rows: Floats, kind: BlockType, name: str) -> Bytes:
    """Encode rows [rows, columns]. Returns [rows, bytes of a row]."""
    if (search := SEARCHES.get(kind.name)) is None:
        made, right = _with_minima(rows, kind)
    else:
        made, right = encoded(rows, kind, search)
    if not right.all():
        made[~right] = encode_rows(rows[~right], kind, name=name)
    return made


def _with_minima(rows: Floats, kind: BlockType) -> tuple[Bytes, NDArray[np.bool_]]:
    """Encode rows in Q4_K or Q5_K: see `signed_quants.encoded`."""
    from builders.quantization.kernels.k_search import codes_of, search_k

    codec, tried = CODECS[kind.name], _SEARCHES[kind.name]
    groups = np.ascontiguousarray(rows).reshape(-1, 32)
    top = np.float32(len(codec.levels) - 1)
    found = np.empty((2, len(groups)), np.float32)
    search_k(groups, top, np.float32(tried.first), _STEP, tried.steps, found)
    heads, scales, minima = _heads(found.reshape(2, -1, 8))
    steps = scales.reshape(-1) != 0
    codes = np.empty(groups.shape, np.uint8)
    codes_of(groups, np.where(steps, scales.reshape(-1), np.float32(1)), minima.reshape(-1), top, codes)
    blocks = np.zeros((len(heads), kind.bytes), np.uint8)
    blocks[:, : heads.shape[1]] = heads
    made = codec.with_codes(blocks, codes.reshape(len(blocks), -1)).reshape(len(rows), -1)
    return made, steps.reshape(len(rows), -1).all(axis=1)


def _heads(found: Floats) -> tuple[Bytes, Floats, Floats]:
    """Return the first 16 bytes of blocks, and what they say: scales and negated minima [blocks, 8].

    `found`: scales and negated minima [2, blocks, 8]. A block with NaN gets scales of 0.
    """
    found = np.where(np.isfinite(found[0]).all(axis=1)[:, None], found, np.float32(0))
    largest = np.maximum(found.max(axis=2), 0)  # [2, blocks]
    inverses = np.divide(_LARGEST, largest, out=np.zeros_like(largest), where=largest > 0)
    whole = np.minimum(np.rint(inverses[..., None] * found), _LARGEST)
    halves = (largest / _LARGEST).astype(np.float16)
    scales, minima = halves.astype(np.float32)[..., None] * whole
    few = whole.astype(np.uint8)
    low, high = few[:, :, :4], few[:, :, 4:]
    packed = [low[0] | high[0] >> 4 << 6, low[1] | high[1] >> 4 << 6, high[0] & 15 | (high[1] & 15) << 4]
    head = np.ascontiguousarray(halves.T).astype("<f2").view(np.uint8)
    return np.concatenate([head, *packed], axis=1), scales, minima
