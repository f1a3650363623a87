"""Q4_0 and Q5_0 of columns with an importance: ggml's bytes, by a compiled search.

A block of 32 weights has one scale, a float16, and keeps the codes that its scale was fitted to. The squared error of a
weight x counts its column's importance times sqrt(mean of x² + x²), the mean over its row. Source:
`quantize_row_q4_0_impl` and `quantize_row_q5_0_impl` in ggml's src/ggml-quants.c. When it is used, and when ggml's own
code: see `ggml_search`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from builders.quantization.grids.ggml_blocks import CODECS
from builders.quantization.grids.importance import counts_of
from builders.quantization.grids.signed_quants import searched
from targets.storage.gguf import BlockType

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


def encoded(rows: Floats, kind: BlockType, importance: Floats | None) -> tuple[Bytes, NDArray[np.bool_]]:
    """Encode rows [rows, columns].

    Returns:
        [rows, bytes of a row], and [rows] which of them are as ggml's: not those with a block of scale 0.
    """
    from builders.quantization.kernels.signed_search import codes_by_inverse

    if importance is None:
        raise ValueError(f"{kind.name} is searched for where columns have an importance")
    codec = CODECS[kind.name]
    rows = np.ascontiguousarray(rows)
    blocks = rows.reshape(-1, kind.length)
    counts, _ = counts_of(rows, importance, factor=1, group=kind.length)
    top = np.float32(-codec.levels[0])
    found, inverses = searched(blocks, counts, top)
    right = np.isfinite(found) & (found != 0)
    codes = np.empty(blocks.shape, np.uint8)
    codes_by_inverse(blocks, np.where(right, inverses, np.float32(0)), top, codes)
    made = np.zeros((len(blocks), kind.bytes), np.uint8)
    made[:, :2] = found.astype("<f2")[:, None].view(np.uint8)
    made = codec.with_codes(made, codes).reshape(len(rows), -1)
    return made, np.all(right.reshape(len(rows), -1), axis=1)
