"""A matrix's rows, some at a time, on all threads: rows have nothing to do with one another.

One matrix after another, whoever asks: each has all threads, and two at once would need their arrays twice.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from builders.threads import single_threaded_products, thread_count

Floats = NDArray[np.float32]

_ROWS = 768  # that a thread works on: a block of 32 columns of them stays in a core's cache; it decides last bits
_one_matrix = threading.Lock()


def by_rows(weights: Floats, work: Callable[[Floats], tuple[NDArray[Any], ...]]) -> tuple[NDArray[Any], ...]:
    """Return what `work` makes of some rows [n, columns] at a time, each of its arrays joined over all rows."""
    parts = (weights[first : first + _ROWS] for first in range(0, len(weights), _ROWS))
    with _one_matrix, single_threaded_products(), ThreadPoolExecutor(thread_count()) as pool:
        made = list(pool.map(work, parts))
    return tuple(np.concatenate(arrays) for arrays in zip(*made, strict=True))
