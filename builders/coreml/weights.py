"""The program's constants: promised while the program is written, computed one at a time while the package is.

A promise is a numpy array without memory (strides of 0) that has the shape and dtype of the constant; `Weights.fulfil`
reads the tensor and computes the array to write, as `targets/storage/coreml.py` plans it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from builders.conversion import BuildRequest
from builders.coreml.quantize import quantize
from builders.quantization.calibration.statistics import MatrixStatistics
from builders.quantization.grids.affine import AffineGrid, AffineMatrix
from builders.quantization.rounding.block_tables import BlockTableMatrix, BlockTables, block_table_matrix
from builders.quantization.rounding.matrix import affine_matrix, scales_of
from builders.quantization.rounding.tables import TableMatrix, table_matrix
from targets.architecture import Architecture
from targets.errors import CheckpointError
from targets.storage.coreml import (
    FLOAT32,
    UINT4,
    Blocks,
    TableBlocks,
    Tables,
    blocks_of,
    plan,
    storage_of,
    table_blocks_of,
    tables_of,
)

LEAST_IMPORTANCE = np.float32(1e-6)  # of a column that a norm makes almost 0
LARGEST_FLOAT16 = float(np.finfo(np.float16).max)


class Weights:
    """Creates MIL variables for a checkpoint's tensors, each tensor once."""

    def __init__(self, request: BuildRequest) -> None:
        self._source = request.source
        self._path = request.checkpoint.path
        self._request = request
        self._recipe = request.recipe
        self.phases = request.phases
        self._shapes = request.checkpoint.architecture.tensor_shapes()
        self._variables: dict[str, Any] = {}
        self._promises: dict[str, Callable[[], NDArray[Any]]] = {}
        self._norms = norms_before(request.checkpoint.architecture)
        self._last: tuple[str, AffineMatrix | None] = ("", None)
        self._last_tables: tuple[str, TableMatrix | BlockTableMatrix | None] = ("", None)

    def is_promised(self, constant: str) -> bool:
        """Return whether a constant of that name is promised: its data is computed when the package is written."""
        return constant in self._promises

    def report_written(self, done_bytes: int | None = None) -> None:
        """Report that so many bytes of the constants are written; all of them by default."""
        total = sum(weight.bytes for weight in plan(self._request.checkpoint.architecture, self._recipe))
        self._request.report_written(total if done_bytes is None else done_bytes, total)

    def fulfil(self, constant: str) -> NDArray[Any]:
        """Return a promised constant's data.

        Raises:
            CheckpointError: the tensor holds NaN, an infinity, or what float16 can't represent.
        """
        return self._promises[constant]()

    def matrix(self, tensor: str) -> Any:
        """Return the variable of a matrix [out, in]: float16 for the operations that use it."""
        if tensor not in self._variables:
            self._variables[tensor] = self._stored(tensor)
        return self._variables[tensor]

    def vector(self, tensor: str) -> Any:
        """Return the variable of a norm's weight or bias, float32 [hidden]."""
        return self.matrix(tensor)

    def bias_of(self, matrix: str) -> Any:
        """Return the variable of a matrix's bias, float16 [out]; shared zeros of that width where it has none."""
        bias = matrix.removesuffix("weight") + "bias"
        return self.matrix(bias) if bias in self._shapes else self._zeros(self._shapes[matrix][0])

    def _zeros(self, width: int) -> Any:
        from coremltools.converters.mil.mil import Builder

        name = f"zeros_{width}"
        if name not in self._variables:
            self._variables[name] = Builder.const(val=np.zeros(width, np.float16), name=name)
        return self._variables[name]

    def _stored(self, tensor: str) -> Any:
        from coremltools.converters.mil.mil import Builder, types

        name, shape = constant_name(tensor), self._shapes[tensor]
        storage = storage_of(tensor, shape, self._recipe)
        if (blocks := blocks_of(storage)) is not None:
            counts = (shape[0], shape[1] // blocks.size)
            codes = types.np_uint4_dtype if blocks.bits == 4 else np.dtype(np.uint8)
            return Builder.constexpr_blockwise_shift_scale(
                data=self._promise(name + "_data", shape, codes, lambda: self._quantized(tensor, blocks).codes),
                scale=self._promise(
                    name + "_scale", counts, np.dtype(np.float16), lambda: self._quantized(tensor, blocks).scales
                ),
                offset=self._promise(name + "_offset", counts, codes, lambda: self._quantized(tensor, blocks).zeros),
                name=name,
            )
        if (tables := tables_of(storage) or table_blocks_of(storage)) is not None:
            return self._looked_up(tensor, name, shape, tables)
        if storage == FLOAT32:
            return self._promise(name, shape, np.dtype(np.float32), lambda: self._source.tensor(tensor))
        return self._promise(name, shape, np.dtype(np.float16), lambda: self._narrow(tensor))

    def _looked_up(self, tensor: str, name: str, shape: tuple[int, ...], tables: Tables | TableBlocks) -> Any:
        """Return the variable of a matrix in tables: values looked up, then scaled by row or by block."""
        from coremltools.converters.mil.mil import Builder, types

        rows, columns = shape
        half = np.dtype(np.float16)
        if isinstance(tables, TableBlocks):
            bits, shared, scale_shape = tables.bits, tables.rows_of(shape), (rows, columns // tables.size)
        else:
            bits, shared, scale_shape = 4, tables.rows, (rows, 1)
        codes = types.np_uint3_dtype if bits == 3 else types.np_uint4_dtype
        made = partial(self._in_tables, tensor, tables)
        values = Builder.constexpr_lut_to_dense(
            indices=self._promise(name + "_data", (rows, columns), codes, lambda: made().codes),
            lut=self._promise(name + "_tables", (rows // shared, 1, 1 << bits, 1), half, lambda: made().tables),
            name=name + "_values",
        )
        scales = self._promise(name + "_scale", scale_shape, half, lambda: made().scales)
        return Builder.constexpr_blockwise_shift_scale(data=values, scale=scales, name=name)

    def _promise(
        self, constant: str, shape: tuple[int, ...], dtype: np.dtype[Any], make: Callable[[], NDArray[Any]]
    ) -> Any:
        from coremltools.converters.mil.mil import Builder

        self._promises[constant] = make
        return Builder.const(val=np.broadcast_to(np.zeros((), dtype), shape), name=constant)

    def _narrow(self, tensor: str) -> NDArray[np.float16]:
        values = self._finite_in_float16(tensor)
        with self.phases.phase("transform", values.nbytes):
            return values.astype(np.float16)

    def _finite_in_float16(self, tensor: str) -> NDArray[np.float32]:
        values = self._source.tensor(tensor)
        largest = max(float(values.max()), -float(values.min()))
        if largest > LARGEST_FLOAT16:
            raise CheckpointError(
                f"{self._path}: tensor {tensor!r} holds {largest:g}; the largest in float16 is {LARGEST_FLOAT16:g}",
                fix="build a recipe of another format, such as onnx-int4",
            )
        return values

    def _quantized(self, tensor: str, blocks: Blocks) -> AffineMatrix:
        """Return a quantized matrix. The last one is kept, since its parts are asked for one after the other."""
        name, quantized = self._last
        if name != tensor or quantized is None:
            self._last = ("", None)  # dropped first, so as not to hold two
            values, statistics = self._finite_in_float16(tensor), self._statistics(tensor)
            with self.phases.phase("quantize", values.nbytes), scales_of(tensor):
                if statistics is None and blocks.label == UINT4:
                    quantized = quantize(values, self._importance(tensor))
                else:
                    grid = AffineGrid(blocks.size, blocks.bits)
                    quantized = affine_matrix(values, grid, statistics or _columns_alike(values))
            self._last = (tensor, quantized)
        return quantized

    def _in_tables(self, tensor: str, tables: Tables | TableBlocks) -> TableMatrix | BlockTableMatrix:
        """Return a matrix in tables. The last one is kept, as with blocks."""
        if self._last_tables[0] != tensor or self._last_tables[1] is None:
            self._last_tables = ("", None)
            values, statistics = self._finite_in_float16(tensor), self._statistics(tensor)
            with self.phases.phase("quantize", values.nbytes), scales_of(tensor):
                quantized = _looked_up(values, tables, statistics or _columns_alike(values))
            self._last_tables = (tensor, quantized)
            return quantized
        return self._last_tables[1]

    def _statistics(self, tensor: str) -> MatrixStatistics | None:
        """Return what a matrix is multiplied with, where that was measured."""
        measured = self._request.statistics
        return None if measured is None else measured.of(tensor)

    def _importance(self, tensor: str) -> NDArray[np.float32] | None:
        """Return how much each column's error counts: the size of its input, known from a norm before the matrix."""
        norm = self._norms.get(tensor)
        if norm is None:
            return None
        sizes = np.square(self._source.tensor(norm)) + LEAST_IMPORTANCE
        bias = norm.removesuffix("weight") + "bias"
        return sizes + np.square(self._source.tensor(bias)) if bias in self._shapes else sizes


def _looked_up(
    values: NDArray[np.float32], tables: Tables | TableBlocks, statistics: MatrixStatistics
) -> TableMatrix | BlockTableMatrix:
    if isinstance(tables, Tables):
        return table_matrix(values, tables.rows, statistics)
    return block_table_matrix(values, BlockTables(tables.bits, tables.rows_of(values.shape), tables.size), statistics)


def _columns_alike(values: NDArray[np.float32]) -> MatrixStatistics:
    return MatrixStatistics(np.ones(values.shape[1], np.float32))


def norms_before(architecture: Architecture) -> dict[str, str]:
    """Return, for each matrix that directly follows a norm, the name of the norm's weight."""
    norms = {architecture.head_tensor: "model.norm.weight"}
    for layer in range(architecture.layer_count):
        prefix = f"model.layers.{layer}."
        norms[prefix + "self_attn.qkv_proj.weight"] = prefix + "input_layernorm.weight"
        norms[prefix + "mlp.gate_up_proj.weight"] = prefix + "post_attention_layernorm.weight"
    return norms


def constant_name(tensor: str) -> str:
    """Return the name of a tensor's constant in the program: letters, digits and underscores."""
    return tensor.removesuffix(".weight").replace(".", "_")  # a bias keeps its ending
