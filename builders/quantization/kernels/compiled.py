"""How the kernels are compiled: to the same results on every processor, without Python's lock, once for a machine.

The order of operations is the source's (no `fastmath`, no fused multiply-add), so results do not depend on the width of
a processor's vectors. numba keeps compiled code in `__pycache__` next to the source or, where that can't be written, in
the user's cache folder, by the source's digest and the processor; it writes to another name and renames, so that
processes may start together. Where neither folder can be written, each process compiles for itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numba import njit
from numba.extending import intrinsic
from numpy.typing import NDArray

Function = TypeVar("Function", bound=Callable[..., object])

_OPTIONS = {"nogil": True, "error_model": "numpy"}  # numpy: x / 0 is infinite, and no check in a loop


def compiled(function: Function) -> Function:
    """Return a function of numpy arrays and numbers that is compiled on its first call."""
    try:
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
