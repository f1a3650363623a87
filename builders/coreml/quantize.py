"""uint4 in blocks along a row, as Core ML's `constexpr_blockwise_shift_scale` stores them: scale * (code - offset).

Codes and offset are 0 to 15, a scale and an offset a block. coremltools' own "linear" mode lays the codes from a
block's least value to its greatest. Here several widths of that range and places of its zero are tried.

Scales are positive. A negative one would make an offset superfluous for most blocks, but Core ML's compiler refuses
negative scales in `quantize` and `dequantize` (webmachinelearning/webnn issue 822), and what it does with them here
can't be tested without a Mac.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from builders.quantization.grids.affine import AffineGrid, AffineMatrix, Search
from builders.quantization.rounding.matrix import nearest_matrix
from targets.storage.coreml import BLOCK_SIZE

HIGHEST_CODE = 15
# Chosen on the 135M model (KL .36, the plain range .45) and on normal deviates (squared error .0059, plain .0065);
# twice as many gain 2 % more.
TRIALS = (
    (1.05, 0),
    (1.0, -1),
    (1.0, 0),
    (1.0, 1),
    (0.95, 0),
    (0.9, 0),
    (0.9, 1),
    (0.85, 0),
    (0.8, 0),
)
_GRID = AffineGrid(BLOCK_SIZE, search=Search(TRIALS))

Floats = NDArray[np.float32]


def quantize(weights: Floats, importance: Floats | None = None) -> AffineMatrix:
    """Quantize a matrix [rows, columns]: finite, magnitudes within float16's, columns a multiple of the block.

    Args:
        weights: the matrix.
        importance: how much the squared error of each column counts, [columns], positive; equal by default.
    """
    return nearest_matrix(weights, _GRID, importance)
