"""Evaluating a saved Core ML program without Core ML: its own operations on its own weights, on the CPU.

Each operation is computed in float32 and rounded to the dtype that the program declares for its result, so that
float16 programs lose what float16 loses. What a device does inside an operation (the order of sums, a narrower
accumulator) is not imitated.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from builders.runtime.coreml.liveness import analyse
from builders.runtime.coreml.operations import MATHS, MOVES, slices
from builders.runtime.coreml.program_file import Blob, Step, Variable, read_program
from targets.errors import MeasurementError

if TYPE_CHECKING:
    from torch import Tensor

KEPT_WEIGHT_BYTES = 4 << 30  # of weights in float32 that are kept between calls; others are decompressed in each call
_STATE_OPERATORS = ("read_state", "write_state")

State = dict[str, "Tensor"]


class Evaluator:
    """A saved program, ready to be called: `make_state` creates a state and `predict` changes it, as in Core ML."""

    def __init__(self, package: Path, *, kept_weight_bytes: int = KEPT_WEIGHT_BYTES) -> None:
        self._program = read_program(package)
        for step in self._program.steps:
            if step.operator not in MATHS and step.operator not in MOVES and step.operator not in _STATE_OPERATORS:
                raise MeasurementError(
                    f"{package}: operator {step.operator!r} can't be evaluated here",
                    fix="validate it on a Mac, where Core ML itself runs it",
                )
        self._liveness = analyse(self._program)
        self._weight_steps = {
            step.results[0].name: step for step in self._program.steps if step.operator.startswith("constexpr_")
        }
        self._kept: dict[str, Any] = {}
        self._room = kept_weight_bytes

    @property
    def metadata(self) -> dict[str, str]:
        """The package's user-defined metadata."""
        return self._program.metadata

    def make_state(self) -> State:
        """Return empty states by name: zeros, float16."""
        import torch

        return {name: torch.zeros(shape, dtype=torch.float16) for name, shape in self._program.states.items()}

    def predict(self, inputs: Mapping[str, NDArray[Any]], state: State) -> dict[str, NDArray[Any]]:
        """Call the program: return its outputs by name, and change the state.

        Raises:
            MeasurementError: an operation refuses its arguments.
        """
        import torch

        variables: dict[str, Any] = {name: torch.from_numpy(np.ascontiguousarray(x)) for name, x in inputs.items()}
        with torch.inference_mode():
            for index, step in enumerate(self._program.steps):
                if step.results and step.results[0].name in self._weight_steps:
                    continue  # computed when it is used
                try:
                    self._run(index, step, variables, state)
                except (RuntimeError, IndexError, KeyError, TypeError, ValueError) as error:
                    name = step.results[0].name if step.results else _name(step.arguments["input"])
                    raise MeasurementError(
                        f"operator {step.operator!r} ({name}) failed: {error}",
                        fix="validate it on a Mac, where Core ML itself runs it, or build the bundle again",
                    ) from error
                for name in self._liveness.deaths.get(index, ()):
                    variables.pop(name, None)
            return {name: variables[name].numpy() for name in self._program.outputs}

    def _run(self, index: int, step: Step, variables: dict[str, Any], state: State) -> None:
        if step.operator == "read_state":
            held = state[_name(step.arguments["input"])]
            shared = index in self._liveness.shared_reads
            variables[step.results[0].name] = held if shared else held.clone()
            return
        if step.operator == "write_state":
            held, data = state[_name(step.arguments["input"])], self._value(step.arguments["data"], variables)
            if data.data_ptr() != held.data_ptr():
                held.copy_(data)
            return
        arguments: dict[str, Any] = {
            name: [self._value(part, variables) for part in argument]
            if isinstance(argument, tuple)
            else self._value(argument, variables)
            for name, argument in step.arguments.items()
        }
        if index in self._liveness.in_place:
            held = arguments["x"]
            held[slices(arguments, held.shape)] = arguments["update"]
            variables[step.results[0].name] = held
            return
        kept = {held.untyped_storage().data_ptr() for held in state.values()}
        for result, value in zip(step.results, _computed(step, arguments), strict=True):
            rounded = value.to(_torch_dtype(result.dtype))
            # A view of a state would change with it.
            seen = rounded.untyped_storage().data_ptr() in kept
            variables[result.name] = rounded.clone() if seen else rounded

    def _value(self, argument: Any, variables: dict[str, Any]) -> Any:
        """Return an argument's value: a variable of this call, a constant, or a weight (float16 ones in float32)."""
        if not isinstance(argument, Variable):
            return self._constant(argument)
        if argument.name in variables:
            return variables[argument.name]
        if argument.name in self._kept:
            return self._kept[argument.name]
        if argument.name in self._weight_steps:
            value = self._weight(self._weight_steps[argument.name])
        else:
            value = self._constant(self._program.constants[argument.name])
        size = 0 if isinstance(value, str) else value.nbytes
        if size <= self._room:
            self._room -= size
            self._kept[argument.name] = value
        return value

    def _weight(self, step: Step) -> Tensor:
        arguments = {
            name: self._constant(self._program.constants[part.name])
            if isinstance(part, Variable) and part.name in self._program.constants
            else self._value(part, {})
            for name, part in step.arguments.items()
        }
        (value,) = _computed(step, arguments)
        return value.to(_torch_dtype(step.results[0].dtype)).float()

    def _constant(self, constant: Any) -> Any:
        import torch

        if isinstance(constant, str):
            return constant
        values = self._program.blobs.read(constant) if isinstance(constant, Blob) else constant
        if values.dtype.kind == "u" and values.dtype.itemsize > 1:
            values = values.astype(np.int64)  # torch has few operations on these
        tensor = torch.from_numpy(np.array(values))
        return tensor.float() if tensor.dtype == torch.float16 else tensor


def _computed(step: Step, arguments: dict[str, Any]) -> list[Tensor]:
    """Return the results of one operation: float arguments of `MATHS` are widened to float32 first."""
    import torch

    if step.operator in MATHS:
        arguments = {
            name: value.float() if isinstance(value, torch.Tensor) and value.dtype == torch.float16 else value
            for name, value in arguments.items()
        }
        results = MATHS[step.operator](arguments)
    else:
        results = MOVES[step.operator](arguments)
    return results if isinstance(results, list) else [results]


def _torch_dtype(dtype: Any) -> Any:
    import torch

    return getattr(torch, "bool" if dtype is np.bool_ else np.dtype(dtype).name)


def _name(argument: Any) -> str:
    assert isinstance(argument, Variable)
    return argument.name
