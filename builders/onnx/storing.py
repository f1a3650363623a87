"""Reading a tensor of a checkpoint, and computing the arrays that `targets/storage/onnx.py` plans for it."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from builders.checkpoint.sources import Rows, open_matrix
from builders.conversion import BuildRequest
from builders.onnx.quantize import quantize
from builders.quantization.calibration.statistics import MatrixStatistics
from builders.quantization.rounding.matrix import NotFiniteError, RowRange, scales_of
from targets.errors import CheckpointError
from targets.storage.onnx import Blocks, Plain, Storage

_FLOAT_BYTES = 4
_OUT_OF_FLOAT16 = 65520.0  # the least magnitude that float16 rounds to infinity


def stored_arrays(request: BuildRequest, name: str, storage: Storage) -> list[NDArray[Any]]:
    """Read a tensor and return the arrays that it becomes, as `storage.arrays` lists them.

    Raises:
        CheckpointError: it holds NaN, an infinity, or what float16 can't represent.
    """
    phases, statistics = request.phases, None if request.statistics is None else request.statistics.of(name)
    if isinstance(storage, Plain):
        values = request.source.tensor(name)
        with phases.phase("transform", values.nbytes):
            return [_narrow(values, storage, name)]
    source = request.source
    with open_matrix(source, name) if statistics is None else nullcontext(source.tensor(name)) as matrix:
        rows, columns = matrix.shape
        groups = ((rows, storage),) if isinstance(storage, Blocks) else storage.groups
        with phases.phase("quantize", rows * columns * _FLOAT_BYTES):
            try:
                return _quantized(matrix, groups, name, statistics)
            except NotFiniteError:
                source.tensor(name)  # which says what it holds
                raise


def _quantized(
    matrix: Rows,
    groups: tuple[tuple[int, Blocks], ...],
    name: str,
    statistics: MatrixStatistics | None,
) -> list[NDArray[Any]]:
    arrays: list[NDArray[Any]] = []
    start = 0
    for rows, blocks in groups:
        with scales_of(name):
            arrays.extend(quantize(RowRange(matrix, start, rows), blocks, statistics).arrays)
        start += rows
    return arrays


def _narrow(values: NDArray[np.float32], storage: Plain, name: str) -> NDArray[Any]:
    largest = max(values.max(), -values.min())
    if storage.dtype == "float16" and largest >= _OUT_OF_FLOAT16:
        raise CheckpointError(
            f"tensor {name!r} holds {largest:g}, which float16 can't represent: its largest is 65504",
            fix="build --recipe onnx-int4, whose blocks have scales of their own",
        )
    return values.astype(storage.dtype, copy=False)
