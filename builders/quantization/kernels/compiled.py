"""How the kernels are compiled: to the same results on every processor, without Python's lock, once for a machine.

The order of operations is the source's (no `fastmath`, no fused multiply-add), so results do not depend on the width of
a processor's vectors. numba keeps compiled code in `__pycache__` next to the source or, where that can't be written, in
the user's cache folder, by the source's digest and the processor; it writes to another name and renames, so that
processes may start together. Where neither folder can be written, each process compiles for itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit
from numba.extending import intrinsic

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
