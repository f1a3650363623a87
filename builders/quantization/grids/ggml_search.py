"""ggml's bytes by compiled searches, which are many times as fast as ggml's own, and by ggml where there is none.

ggml's own bits depend on its compiler: the usual one for x86-64 fuses no multiplication with an addition, others may.
So ggml itself decides: once in a process both encode the same weights, and where their bytes differ, ggml's code is
used. It is also used for rows with a group of scale 0, which keeps the codes of a trial, and for types that have no
search here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from builders.quantization.ggml_library import check_magnitude, encode, encode_rows, in_slices
from builders.quantization.grids import iq4_quants, k_quants, one_scale_quants, signed_quants
from targets.storage.gguf import TYPES, BlockType

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
# Of rows [rows, columns] and the importance of their columns: bytes [rows, bytes of a row], and which rows are ggml's.
Search = Callable[[Floats, BlockType, Floats | None], tuple[Bytes, NDArray[np.bool_]]]

_SEARCHES: dict[str, Search] = {
    "Q4_K": k_quants.encoded,
    "Q5_K": k_quants.encoded,
    "Q3_K": signed_quants.encoded,
    "Q6_K": signed_quants.encoded,
    "IQ4_NL": iq4_quants.encoded,
    "IQ4_XS": iq4_quants.encoded,
}
# ggml rounds these to the nearest values where columns have no importance, and is fast.
_CALIBRATED: dict[str, Search] = {"Q4_0": one_scale_quants.encoded, "Q5_0": one_scale_quants.encoded}
_SAMPLE_ROWS = 64


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
    exists = kind in _SEARCHES or (calibrated and kind in _CALIBRATED)
    return exists and _has_ggmls_bytes(kind, calibrated=calibrated)


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
    made, right = (_SEARCHES | _CALIBRATED)[kind.name](rows, kind, importance)
    if not right.all():
        made[~right] = encode_rows(rows[~right], kind, name=name, importance=importance)
    return made
