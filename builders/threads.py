"""How many threads numeric work uses: all processors that this process may use, or what `OMP_NUM_THREADS` says.

numpy's and torch's libraries read that variable themselves; runtimes that don't are given the same number here. A
machine that does several builds or tests at once sets it, so that their threads do not wait for one another.
"""

from __future__ import annotations

import os


def thread_count() -> int:
    """Return the number of threads, at least 1."""
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]  # it may be a list, a number a level of nesting
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1
