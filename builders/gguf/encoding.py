"""The bytes of one tensor, with as much calibration as there is.

Uncalibrated they are llama-quantize's; with mean squares (`light`) those of llama-quantize with an importance matrix;
with all second moments (`full`) ggml chooses the scales, and GPTQ the codes (`rounding/`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from builders.quantization.calibration.statistics import MatrixStatistics
from builders.quantization.grids.ggml import GgmlGrid
from builders.quantization.grids.ggml_blocks import CODECS
from builders.quantization.grids.ggml_search import encode_matrix
from builders.quantization.rounding.gptq import round_matrix
from targets.storage.gguf import BlockType

Floats = NDArray[np.float32]


def encoded(values: Floats, kind: BlockType, statistics: MatrixStatistics | None, *, name: str) -> NDArray[np.uint8]:
    """Return a tensor's bytes, row after row.

    Args:
        values: float32 [rows, columns] or [columns], in the order of llama.cpp's rows.
        kind: the ggml type.
        statistics: of what the matrix is multiplied with; None for a tensor that is not calibrated.
        name: the tensor's, for errors.

    Raises:
        CheckpointError: a value is too large for the type.
    """
    if statistics is None or kind.name not in CODECS:
        return encode_matrix(values, kind, name=name)
    if statistics.moments:
        (rows,) = round_matrix(values, GgmlGrid(kind.name, name), statistics.moments)
        return rows.reshape(-1)
    return encode_matrix(values, kind, name=name, importance=statistics.squares)
