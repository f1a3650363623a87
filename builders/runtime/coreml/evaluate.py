"""Evaluating a saved Core ML program without Core ML: its own operations on its own weights, on the CPU.

Each operation is computed in float32 and rounded to the dtype that the program declares for its result, so that
float16 programs lose what float16 loses. What a device does inside an operation (the order of sums, a narrower
accumulator) is not imitated.

Several calls run in lockstep, operation by operation: each matrix is decompressed once for all of them, a piece at a
time (`matrices.py`). No weight stays in memory, so a program may have any size.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from builders.coreml.interface import MAIN
from builders.memory import return_large_blocks
from builders.runtime.coreml.liveness import analyse
from builders.runtime.coreml.matrices import Matrix, half_matrix, matrix_of, packed_matrix, products
from builders.runtime.coreml.operations import MATHS, MOVES, attended_part, slices
from builders.runtime.coreml.program_file import Blob, Step, Variable, read_program
from builders.threads import single_threaded_products, thread_count
from targets.errors import MeasurementError

if TYPE_CHECKING:
    from torch import Tensor

_STATE_OPERATORS = ("read_state", "write_state")
_FLOATS = ("fp16", "fp32")

State = dict[str, "Tensor"]
Call = tuple[Mapping[str, NDArray[Any]], State]  # inputs by name, and the state that the call changes


@dataclass(frozen=True)
class _Sequence:
    """A call on its way through the program."""

    state: State
    variables: dict[str, Any]


class Evaluator:
    """A function of a saved program, ready to be called.

    `make_state` creates a state and `predict` changes it, as in Core ML. Functions of one package share states.
    """

    def __init__(self, package: Path, function: str = MAIN) -> None:
        return_large_blocks()
        self._program = read_program(package, function)
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
        users = [
            index
            for index, step in enumerate(self._program.steps)
            if not step.operator.startswith("constexpr_") and any(map(self._is_matrix, step.arguments.values()))
        ]
        self._last_matrix = users[-1] if users else 0  # the step from which sequences run one by one
        self._kept: dict[str, Any] = {}  # constants that are not matrices
        self._pool = ThreadPoolExecutor(thread_count())

    @property
    def metadata(self) -> dict[str, str]:
        """The package's user-defined metadata."""
        return self._program.metadata

    @property
    def updates_in_place(self) -> bool:
        """Whether calls that share a state, run together, see what the earlier ones have written at each operation."""
        return self._liveness.copies_no_state

    def make_state(self) -> State:
        """Return empty states by name: zeros, float16, whose memory is allocated where it is first written."""
        return {name: _mapped_zeros(shape) for name, shape in self._program.states.items()}

    def predict(self, inputs: Mapping[str, NDArray[Any]], state: State) -> dict[str, NDArray[Any]]:
        """Call the program: return its outputs by name, and change the state. Raises as `predict_each`."""
        (outputs,) = self.predict_each([(inputs, state)])
        return outputs

    def predict_each(self, calls: Sequence[Call], *, at_once: int = 1) -> Iterator[dict[str, NDArray[Any]]]:
        """Make several calls, and yield the outputs of each: those that `predict` returns.

        Calls of different sequences don't depend on each other. Those that share a state run in their order at each
        operation, and not one after the other: a call sees what later ones have written so far. All run up to the last
        matrix, the head, before the first is yielded. From there on, `at_once` run together, since logits of many
        tokens are large.

        Raises:
            MeasurementError: an operation refuses its arguments.
        """
        import torch

        sequences = [
            _Sequence(state, {name: torch.from_numpy(np.ascontiguousarray(x)) for name, x in inputs.items()})
            for inputs, state in calls
        ]
        with single_threaded_products():
            self._advance(0, self._last_matrix, sequences)
            for first in range(0, len(sequences), at_once):
                group = sequences[first : first + at_once]
                self._advance(self._last_matrix, len(self._program.steps), group)
                for sequence in group:
                    yield {name: sequence.variables[name].numpy() for name in self._program.outputs}
                    sequence.variables.clear()

    def _advance(self, first: int, last: int, sequences: Sequence[_Sequence]) -> None:
        """Run some of the steps, each for all sequences."""
        import torch

        with torch.inference_mode():
            for index in range(first, last):
                step = self._program.steps[index]
                if step.operator.startswith("constexpr_"):
                    continue  # computed when it is used
                try:
                    self._run(index, step, sequences)
                except (RuntimeError, IndexError, KeyError, TypeError, ValueError) as error:
                    name = step.results[0].name if step.results else _name(step.arguments["input"])
                    raise MeasurementError(
                        f"operator {step.operator!r} ({name}) failed: {error}",
                        fix="validate it on a Mac, where Core ML itself runs it, or build the bundle again",
                    ) from error
                for name in self._liveness.deaths.get(index, ()):
                    for sequence in sequences:
                        sequence.variables.pop(name, None)

    def _run(self, index: int, step: Step, sequences: Sequence[_Sequence]) -> None:
        if step.operator == "linear" and self._is_matrix(step.arguments["weight"]):
            self._multiply(step, sequences)
            return
        matrices = {name: self._matrix(part) for name, part in step.arguments.items() if self._is_matrix(part)}
        takes_rows = step.operator == "gather" and "x" in matrices and _takes_rows(step.arguments)
        whole = {} if takes_rows else {name: _tensor(matrix.whole()) for name, matrix in matrices.items()}
        for sequence in sequences:
            arguments: dict[str, Any] = {
                name: [self._value(part, sequence.variables) for part in argument]
                if isinstance(argument, tuple)
                else self._value(argument, sequence.variables)
                for name, argument in step.arguments.items()
                if name not in matrices
            }
            if takes_rows:
                taken = matrices["x"].taken(arguments["indices"].numpy().astype(np.int64))
                self._keep_results(step, [_tensor(taken)], sequence)
            elif step.operator in _STATE_OPERATORS:
                self._move_state(index, step, arguments, sequence)
            elif index in self._liveness.in_place:
                held = arguments["x"]
                held[slices(arguments, held.shape)] = arguments["update"]
                sequence.variables[step.results[0].name] = held
            else:
                values = _computed(step, arguments | whole)
                if index in self._liveness.views and values[0].dtype == _torch_dtype(step.results[0].dtype):
                    sequence.variables[step.results[0].name] = values[0]
                else:
                    self._keep_results(step, values, sequence)

    def _multiply(self, step: Step, sequences: Sequence[_Sequence]) -> None:
        """Run a product with a matrix for all sequences."""
        matrix, bias = self._matrix(step.arguments["weight"]), step.arguments.get("bias")
        added = None if bias is None else self._value(bias, {}).float().numpy()
        given = [self._value(step.arguments["x"], sequence.variables) for sequence in sequences]
        rows = [x.float().reshape(-1, x.shape[-1]).numpy() for x in given]
        found = products(rows, matrix, added, self._pool)
        for x, sequence in zip(given, sequences, strict=True):
            self._keep_results(step, [_tensor(found.pop(0)).reshape(*x.shape[:-1], -1)], sequence)

    def _move_state(self, index: int, step: Step, arguments: dict[str, Any], sequence: _Sequence) -> None:
        held = sequence.state[_name(step.arguments["input"])]
        if step.operator == "read_state":
            shared = index in self._liveness.shared_reads
            sequence.variables[step.results[0].name] = held if shared else held.clone()
        elif arguments["data"].data_ptr() != held.data_ptr():
            held.copy_(arguments["data"])

    def _keep_results(self, step: Step, values: list[Tensor], sequence: _Sequence) -> None:
        kept = {held.untyped_storage().data_ptr() for held in sequence.state.values()}
        for result, value in zip(step.results, values, strict=True):
            rounded = value.to(_torch_dtype(result.dtype))
            # A view of a state would change with it.
            seen = rounded.untyped_storage().data_ptr() in kept
            sequence.variables[result.name] = rounded.clone() if seen else rounded

    def _value(self, argument: Any, variables: dict[str, Any]) -> Any:
        """Return an argument's value: a variable of this call, a state's name, or a constant (float16 in float32)."""
        if not isinstance(argument, Variable):
            return _constant(argument)
        if argument.name in variables:
            return variables[argument.name]
        if argument.name in self._program.states:
            return argument.name
        if argument.name in self._kept:
            return self._kept[argument.name]
        if argument.name in self._weight_steps:
            return self._weight(self._weight_steps[argument.name])
        value = self._stored(argument)
        constant = self._program.constants[argument.name]
        if not isinstance(constant, Blob) or len(constant.shape) < 2:
            self._kept[argument.name] = value
        return value

    def _is_matrix(self, argument: Any) -> bool:
        """Return whether an argument is a stored constant of floats, of two or more dimensions."""
        if not isinstance(argument, Variable):
            return False
        if argument.name in self._weight_steps:
            return True
        constant = self._program.constants.get(argument.name)
        return isinstance(constant, Blob) and len(constant.shape) > 1 and constant.type_name in _FLOATS

    def _matrix(self, argument: Variable) -> Matrix:
        step = self._weight_steps.get(argument.name)
        blobs, constants = self._program.blobs, self._program.constants
        if step is None:
            blob = constants[argument.name]
            assert isinstance(blob, Blob)
            return half_matrix(blobs, blob) if blob.type_name == "fp16" else matrix_of(blobs.read(blob))
        if step.operator == "constexpr_blockwise_shift_scale" and step.results[0].dtype is np.float16:
            stored = {
                name: constants.get(part.name) if isinstance(part, Variable) else part
                for name, part in step.arguments.items()
            }
            packed = packed_matrix(blobs, stored)
            if packed is not None:
                return packed
        return matrix_of(self._weight(step).numpy())

    def _weight(self, step: Step) -> Tensor:
        """Return a `constexpr` operation's result, in float32 where it is float16."""
        arguments = {
            name: self._stored(part)
            if isinstance(part, Variable)
            else _constant(self._program.blobs.read(part) if isinstance(part, Blob) else part)
            for name, part in step.arguments.items()
        }
        (value,) = _computed(step, arguments)
        return value.to(_torch_dtype(step.results[0].dtype)).float()

    def _stored(self, argument: Variable) -> Any:
        if argument.name in self._weight_steps:
            return self._weight(self._weight_steps[argument.name])
        constant = self._program.constants[argument.name]
        return _constant(self._program.blobs.read(constant) if isinstance(constant, Blob) else constant)


def _constant(constant: Any) -> Any:
    import torch

    if isinstance(constant, str):
        return constant
    if constant.dtype.kind == "u" and constant.dtype.itemsize > 1:
        constant = constant.astype(np.int64)  # torch has few operations on these
    tensor = torch.from_numpy(np.array(constant))
    return tensor.float() if tensor.dtype == torch.float16 else tensor


def _mapped_zeros(shape: tuple[int, ...]) -> Tensor:
    """Return float16 zeros whose pages take memory once they are written: a cache is mostly empty.

    Neither torch nor numpy does that: one writes the zeros, the other asks for huge pages.
    """
    import torch

    count = int(np.prod(shape))
    return torch.frombuffer(mmap.mmap(-1, 2 * count), dtype=torch.float16, count=count).reshape(shape)


def _takes_rows(arguments: Mapping[str, Any]) -> bool:
    """Return whether a gather takes from the first axis."""
    axis, batch = arguments.get("axis"), arguments.get("batch_dims")
    plain = all(value is None or isinstance(value, np.ndarray) for value in (axis, batch))
    return plain and axis is not None and int(axis) == 0 and (batch is None or int(batch) == 0)


def _tensor(values: NDArray[Any]) -> Tensor:
    import torch

    return torch.from_numpy(values)


def _computed(step: Step, arguments: dict[str, Any]) -> list[Tensor]:
    """Return the results of one operation: float arguments of `MATHS` are widened to float32 first."""
    import torch

    if step.operator == "scaled_dot_product_attention":
        arguments = attended_part(arguments)
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
