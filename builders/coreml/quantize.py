"""uint4 in blocks along a row: for each block the scale and offset of least squared error. Pure numpy.

Core ML's `constexpr_blockwise_shift_scale`: weight = scale * (code - offset), codes and offset 0 to 15, a scale and
an offset a block. coremltools' own "linear" mode lays the codes from a block's least value to its greatest. Here
several widths of that range and places of its zero are tried. For the codes c = code - offset of a trial, the scale of
least error is <w, c> / <c, c> (least squares), and that error is |w|^2 - <w, c>^2 / <c, c>: the trial with the greatest
<w, c>^2 / <c, c> wins.

Scales are positive. A negative one would make an offset superfluous for most blocks, but Core ML's compiler refuses
negative scales in `quantize` and `dequantize` (webmachinelearning/webnn issue 822), and what it does with them here
can't be tested without a Mac.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from builders.quantization.grids.affine import AffineMatrix, inverse
from builders.threads import thread_count
from targets.storage.coreml import BLOCK_SIZE

HIGHEST_CODE = 15
# Trials: width of the range as a share of the block's own (below 1 clips), and by how much the offset is moved.
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
_CHUNK_ELEMENTS = 1 << 17  # that a thread works on at a time: its arrays stay in a core's cache

Floats = NDArray[np.float32]


def quantize(weights: Floats, importance: Floats | None = None) -> AffineMatrix:
    """Quantize a matrix [rows, columns]: finite, magnitudes within float16's, columns a multiple of the block.

    Args:
        weights: the matrix.
        importance: how much the squared error of each column counts, [columns], positive; equal by default.
    """
    rows, columns = weights.shape
    blocks = (rows, columns // BLOCK_SIZE)
    result = AffineMatrix(np.empty((rows, columns), np.uint8), np.empty(blocks, np.float16), np.empty(blocks, np.uint8))
    step = max(1, _CHUNK_ELEMENTS // columns)

    def work(first: int) -> None:
        part = slice(first, first + step)
        chunk = _quantize_rows(weights[part], importance)
        result.codes[part], result.scales[part], result.zeros[part] = chunk.codes, chunk.scales, chunk.zeros

    with ThreadPoolExecutor(thread_count()) as pool:
        for _ in pool.map(work, range(0, rows, step)):
            pass  # a chunk's error is raised here
    return result


def _quantize_rows(weights: Floats, importance: Floats | None) -> AffineMatrix:
    rows, columns = weights.shape
    # A block is a column here, [block, blocks]: sums over a block then run along whole rows of memory.
    blocks = np.ascontiguousarray(weights.reshape(-1, BLOCK_SIZE).T)
    weighting = None if importance is None else np.tile(importance.reshape(-1, BLOCK_SIZE).T, (1, rows))
    scale, offset = _best(blocks, weighting)
    stored = scale.astype(np.float16)
    codes = _centred_codes(blocks, inverse(stored.astype(np.float32)), offset, np.empty_like(blocks)) + offset
    return AffineMatrix(
        codes=codes.T.astype(np.uint8).reshape(rows, columns),
        scales=stored.reshape(rows, -1),
        zeros=offset.astype(np.uint8).reshape(rows, -1),
    )


def _best(blocks: Floats, weighting: Floats | None) -> tuple[Floats, Floats]:
    """Return the scale and the offset of least (weighted) squared error of each block, among those tried."""
    lowest, highest = np.minimum(blocks.min(axis=0), 0), np.maximum(blocks.max(axis=0), 0)
    plain = inverse((highest - lowest) / HIGHEST_CODE)
    weighted = blocks if weighting is None else blocks * weighting
    gain, scale, offset = (np.zeros_like(plain) for _ in range(3))
    codes, product = np.empty_like(blocks), np.empty_like(blocks)
    for width, shift in TRIALS:
        inverse_scale = plain / np.float32(width)
        # The offset is where 0 lies in the range: in the block's own, whatever its width.
        tried = np.clip(np.rint(-lowest * plain) + shift, 0, HIGHEST_CODE)
        _centred_codes(blocks, inverse_scale, tried, codes)
        along = np.multiply(codes, weighted, out=product).sum(axis=0)
        np.multiply(codes, codes, out=product)
        if weighting is not None:
            product *= weighting
        best_scale = along * inverse(product.sum(axis=0))
        better = along * best_scale > gain
        gain[better] = (along * best_scale)[better]
        scale[better] = best_scale[better]
        offset[better] = tried[better]
    return scale, offset


def _centred_codes(blocks: Floats, inverse_scale: Floats, offset: Floats, out: Floats) -> Floats:
    """Return codes minus the offset: whole numbers from -offset to 15 - offset."""
    np.multiply(blocks, inverse_scale, out=out)
    np.rint(out, out=out)
    np.maximum(out, -offset, out=out)
    return np.minimum(out, HIGHEST_CODE - offset, out=out)
