"""The program's constants: promised while the program is written, made one at a time while the package is.

A promise is a numpy array without memory (strides of 0) that has the shape and dtype of the constant; `Promises.fulfil`
reads the tensor, stores it as `targets/storage/coreml.py` plans, and gives the array to write.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from builders.conversion import BuildRequest
from builders.coreml.quantize import Quantized, quantize
from targets.architecture import Architecture
from targets.errors import CheckpointError
from targets.storage.coreml import BLOCK_SIZE, FLOAT32, UINT4, plan, storage_of

LEAST_IMPORTANCE = np.float32(1e-6)  # of a column that a norm all but closes
LARGEST_FLOAT16 = float(np.finfo(np.float16).max)


class Weights:
    """Makes MIL variables for a checkpoint's tensors, each tensor once."""

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
        self._last: tuple[str, Quantized | None] = ("", None)

    def is_promised(self, constant: str) -> bool:
        """True for the name of a constant whose data is made late."""
        return constant in self._promises

    def report_written(self, done_bytes: int | None = None) -> None:
        """Report that so many bytes of the constants are written; all of them by default."""
        total = sum(weight.bytes for weight in plan(self._request.checkpoint.architecture, self._recipe))
        self._request.report_written(total if done_bytes is None else done_bytes, total)

    def fulfil(self, constant: str) -> NDArray[Any]:
        """Make a constant's data. Raises `CheckpointError` on NaN, an infinity, or what float16 can't hold."""
        return self._promises[constant]()

    def matrix(self, tensor: str) -> Any:
        """Variable of a matrix [out, in], float16 to whoever uses it."""
        if tensor not in self._variables:
            self._variables[tensor] = self._stored(tensor)
        return self._variables[tensor]

    def vector(self, tensor: str) -> Any:
        """Variable of a norm's weight or bias, float32 [hidden]."""
        return self.matrix(tensor)

    def bias_of(self, matrix: str) -> Any:
        """Variable of a matrix's bias, float16 [out]; zeros, one for all of that width, where it has none."""
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
        if storage == UINT4:
            blocks = (shape[0], shape[1] // BLOCK_SIZE)
            return Builder.constexpr_blockwise_shift_scale(
                data=self._promise(name + "_data", shape, types.np_uint4_dtype, lambda: self._quantized(tensor).codes),
                scale=self._promise(
                    name + "_scale", blocks, np.dtype(np.float16), lambda: self._quantized(tensor).scales
                ),
                offset=self._promise(
                    name + "_offset", blocks, types.np_uint4_dtype, lambda: self._quantized(tensor).offsets
                ),
                name=name,
            )
        if storage == FLOAT32:
            return self._promise(name, shape, np.dtype(np.float32), lambda: self._source.tensor(tensor))
        return self._promise(name, shape, np.dtype(np.float16), lambda: self._narrow(tensor))

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
                f"{self._path}: tensor {tensor!r} holds {largest:g}; float16 ends at {LARGEST_FLOAT16:g}",
                fix="scale the checkpoint, or take a recipe of another format",
            )
        return values

    def _quantized(self, tensor: str) -> Quantized:
        """Quantize a matrix; the last one is kept, since its parts are asked for one after the other."""
        name, quantized = self._last
        if name != tensor or quantized is None:
            self._last = ("", None)  # not two at a time
            values, importance = self._finite_in_float16(tensor), self._importance(tensor)
            with self.phases.phase("quantize", values.nbytes):
                quantized = quantize(values, importance)
            self._last = (tensor, quantized)
        return quantized

    def _importance(self, tensor: str) -> NDArray[np.float32] | None:
        """How much a column's error counts: by the size of what it is multiplied with, which a norm before it tells."""
        norm = self._norms.get(tensor)
        if norm is None:
            return None
        sizes = np.square(self._source.tensor(norm)) + LEAST_IMPORTANCE
        bias = norm.removesuffix("weight") + "bias"
        return sizes + np.square(self._source.tensor(bias)) if bias in self._shapes else sizes


def norms_before(architecture: Architecture) -> dict[str, str]:
    """Name the norm whose output a matrix is multiplied with, for those that follow one at once."""
    norms = {architecture.head_tensor: "model.norm.weight"}
    for layer in range(architecture.layer_count):
        prefix = f"model.layers.{layer}."
        norms[prefix + "self_attn.qkv_proj.weight"] = prefix + "input_layernorm.weight"
        norms[prefix + "mlp.gate_up_proj.weight"] = prefix + "post_attention_layernorm.weight"
    return norms


def constant_name(tensor: str) -> str:
    """Name of a tensor's constant in the program: letters, digits and underscores."""
    return tensor.removesuffix(".weight").replace(".", "_")  # a bias keeps its ending
