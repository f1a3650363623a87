"""How the kernels are compiled: to the same results on every processor, without Python's lock, once for a machine.

The order of operations is the source's (no `fastmath`, no fused multiply-add), so results do not depend on the width of
a processor's vectors. numba keeps compiled code in `__pycache__` next to the source or, where that can't be written, in
the user's cache folder, by the digest of all kernels' sources and the processor; it writes to another name and renames,
so that processes may start together. Where neither folder can be written, each process compiles for itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from builders.quantization.kernels.locators import kept_together

Function = TypeVar("Function", bound=Callable[..., object])

_OPTIONS = {"nogil": True, "error_model": "numpy"}  # numpy: x / 0 is infinite, and no check in a loop


def compiled(function: Function) -> Function:
    """Return a function of numpy arrays and numbers that is compiled on its first call."""
    try:
        with kept_together():
            return njit(function, cache=True, **_OPTIONS)
    except RuntimeError:  # no folder for the cache
        return njit(function, **_OPTIONS)


def inlined(function: Function) -> Function:
    """Return a part of kernels, which is compiled as if it stood in them."""
    return njit(function, inline="always", **_OPTIONS)


@intrinsic  # type: ignore[untyped-decorator]
def choose(_typing: Any, _condition: Any, one: Any, _other: Any) -> Any:
    """Return `one` where a condition holds, and `other` elsewhere: an instruction, where `if` would be a branch.

    In a loop over lanes, a branch becomes stores of some lanes alone, which take AMD's processors 20 times longer.
    """

    def emit(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.select(*arguments)

    return one(_condition, one, _other), emit


@intrinsic  # type: ignore[untyped-decorator]
def transpose_words(_typing: Any, source: Any, source_step: Any, target: Any, target_step: Any) -> Any:
    """Lay 8 words of 4 bytes from each of 8 addresses, `source_step` bytes apart, across 8 rows at another address.

    A loop would load and store word by word. Three rounds of shuffles swap blocks of 4, 2 and 1 words of two rows.
    """

    def emit(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        words = ir.VectorType(ir.IntType(32), 8)
        begin, step, out, out_step = arguments

        def pointer(start: Any, step: Any, number: int) -> Any:
            place = builder.add(start, builder.mul(step, ir.Constant(step.type, number)))
            return builder.inttoptr(place, words.as_pointer())

        def mixed(one: Any, other: Any, places: list[int]) -> Any:
            return builder.shuffle_vector(one, other, ir.Constant(words, places))

        rows = [builder.load(pointer(begin, step, number), align=4) for number in range(8)]
        for size in (4, 2, 1):
            upper = [place + (8 - size if place & size else 0) for place in range(8)]
            lower = [place + (8 if place & size else size) for place in range(8)]
            for first in (number for number in range(8) if not number & size):
                one, other = rows[first], rows[first + size]
                rows[first], rows[first + size] = mixed(one, other, upper), mixed(one, other, lower)
        for number, row in enumerate(rows):
            builder.store(row, pointer(out, out_step, number), align=4)
        return context.get_dummy_value()

    return types.void(source, source_step, target, target_step), emit


@inlined
def stored(value: np.float32) -> np.float32:
    """Return the value, past the compiler: it would store only the changed lanes, which takes AMD's processors longer.

    x + 0 is not optimized away, because it makes 0 of -0.
    """
    return value + np.float32(0)


@inlined
def load_lanes(groups: NDArray[np.float32], start: int, used: int, lanes: NDArray[np.float32]) -> None:
    """Lay groups [groups, size] from `start` on side by side, [size, lanes]; the last of those `used` fills up."""
    for place in range(lanes.shape[1]):
        group = groups[start + min(place, used - 1)]
        for element in range(len(lanes)):
            lanes[element, place] = group[element]
