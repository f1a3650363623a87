"""How many threads numeric work uses: all processors that this process may use, or what `OMP_NUM_THREADS` says.

numpy's and torch's libraries read that variable themselves; runtimes that don't are given the same number here. A
machine that does several builds or tests at once sets it, so that their threads do not wait for one another.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_lock = threading.Lock()
_users = 0  # of single_threaded_products, now
_limits: Any = None


@contextmanager
def single_threaded_products() -> Iterator[None]:
    """Keep numpy's products of matrices to the thread that asks for them: for code with a pool of threads of its own.

    Results are then the same whatever the number of threads. Several uses may overlap; it ends with the last one.
    """
    global _limits, _users  # noqa: PLW0603 - the libraries have one setting for the process
    from threadpoolctl import threadpool_limits

    with _lock:
        if _users == 0:
            _limits = threadpool_limits(1, user_api="blas")
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                _limits.restore_original_limits()


def thread_count() -> int:
    """Return the number of threads, at least 1."""
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]  # it may be a list, a number a level of nesting
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1
