"""How many threads numeric work uses: all processors that this process may use, or what `OMP_NUM_THREADS` says.

numpy's and torch's libraries read that variable themselves; runtimes that don't are given the same number here. A
machine that does several builds or tests at once sets it, so that their threads do not wait for one another.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from targets.errors import BuildError

_Result = TypeVar("_Result")
_lock = threading.Lock()
_users = 0  # of single_threaded_products, now
_limits: Any = None


@contextmanager
def single_threaded_products() -> Iterator[None]:
    """Keep numpy's products of matrices to the thread that asks for them: for code with a pool of threads of its own.

    Results are then the same whatever the number of threads. Several uses may overlap; it ends with the last one.

    Raises:
        BuildError: other code in this process decides how many threads the library has.
    """
    global _limits, _users  # noqa: PLW0603 - the libraries have one setting for the process
    from threadpoolctl import ThreadpoolController

    with _lock:
        if _users == 0:
            # The libraries of now, numpy's among them. Others that are loaded meanwhile (numba's compiler loads
            # scipy's) are not what numpy multiplies with.
            libraries = ThreadpoolController()
            limits = _in_short_thread(lambda: libraries.limit(limits=1, user_api="blas"))
            _require_one_thread(libraries)
            _limits = limits
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                _in_short_thread(_limits.restore_original_limits)


def _in_short_thread(work: Callable[[], _Result]) -> _Result:
    """Return what `work` returns, called in a thread that ends with it.

    Since threadpoolctl 3.8 the first thread that sets OpenBLAS's limit owns it, and what others set is ignored without
    a word, until that thread has ended.
    """
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def _require_one_thread(libraries: Any) -> None:
    """Look whether the limit of a `ThreadpoolController` holds. Raises `BuildError`."""
    others = [one["filepath"] for one in libraries.info() if one["user_api"] == "blas" and one["num_threads"] != 1]
    if others:
        raise BuildError(
            f"{Path(others[0]).name} keeps its number of threads, so that a bundle's bytes would depend on it",
            fix="build in a process of its own: phipack build, or a script in which no other code uses threadpoolctl",
        )


def thread_count() -> int:
    """Return the number of threads, at least 1."""
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]  # it may be a list, a number a level of nesting
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1
