"""A graph being written: nodes in order, small constants, and initializers that point into the data file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from targets.runtimes.expected import ONNX_IR, ONNX_OPSET

MICROSOFT = "com.microsoft"  # onnxruntime's own operators


class Graph:
    """Appends nodes and returns the names of their outputs. A node is named after its first output."""

    def __init__(self) -> None:
        self._nodes: list[Any] = []
        self._initializers: dict[str, Any] = {}
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []

    def input(self, name: str, dtype: str, shape: Sequence[int | str]) -> str:
        """Declare an input. A dimension given as a word is dynamic."""
        self._inputs.append(_value(name, dtype, shape))
        return name

    def output(self, name: str, dtype: str, shape: Sequence[int | str]) -> None:
        """Declare an output; a node of that output name must be appended."""
        self._outputs.append(_value(name, dtype, shape))

    def initializer(self, tensor: Any) -> str:
        """Add a TensorProto, once however often it is used. Returns its name."""
        self._initializers[tensor.name] = tensor
        return str(tensor.name)

    def integers(self, name: str, values: int | list[int]) -> str:
        """Add an int64 constant: a scalar, or a vector for a list."""
        import onnx

        return self.initializer(onnx.numpy_helper.from_array(np.asarray(values, dtype=np.int64), name))

    def floats(self, name: str, value: float) -> str:
        """Add a float32 scalar constant."""
        import onnx

        return self.initializer(onnx.numpy_helper.from_array(np.asarray(value, dtype=np.float32), name))

    def node(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Append a node of the standard operators with one output."""
        return self.nodes(kind, inputs, [output], **attributes)[0]

    def fused(self, kind: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> Sequence[str]:
        """Append a node of onnxruntime's own operators."""
        return self.nodes(kind, inputs, outputs, domain=MICROSOFT, **attributes)

    def nodes(self, kind: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> Sequence[str]:
        """Append a node with any number of outputs; an empty name is an output, or an input, that is left out."""
        import onnx

        name = next(output for output in outputs if output)
        self._nodes.append(onnx.helper.make_node(kind, list(inputs), list(outputs), name=name, **attributes))
        return outputs

    def cast(self, value: str, dtype: str, output: str) -> str:
        """Append a Cast."""
        return self.node("Cast", [value], output, to=element_type(dtype))

    def to_bytes(self, name: str, facts: dict[str, str]) -> bytes:
        """Return the ONNX file, with `facts` as its metadata: the same bytes for the same graph."""
        import onnx

        graph = onnx.helper.make_graph(
            self._nodes, name, self._inputs, self._outputs, initializer=list(self._initializers.values())
        )
        model = onnx.helper.make_model(
            graph,
            producer_name="phipack",
            ir_version=ONNX_IR,
            opset_imports=[onnx.helper.make_opsetid("", ONNX_OPSET), onnx.helper.make_opsetid(MICROSOFT, 1)],
        )
        onnx.helper.set_model_props(model, facts)
        return bytes(model.SerializeToString(deterministic=True))


def element_type(dtype: str) -> int:
    """Return ONNX's number of an element type, by numpy's name."""
    import onnx

    return int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def _value(name: str, dtype: str, shape: Sequence[int | str]) -> Any:
    import onnx

    return onnx.helper.make_tensor_value_info(name, element_type(dtype), list(shape))
