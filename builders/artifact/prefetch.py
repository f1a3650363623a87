"""Results computed on threads shortly before they are used: the next tensor is read while one is written."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


def prefetched(calls: Iterable[Callable[[], Result]], threads: int) -> Generator[Result]:
    """Yield the calls' results in their order. While one is used, `threads` more are under way or done.

    What a call raises is raised in its place, and calls that have not begun are dropped; so they are when the
    generator is closed (`contextlib.closing`).
    """
    results: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for call in calls:
            results.append(pool.submit(call))
            if len(results) > threads:
                yield results.popleft().result()
        while results:
            yield results.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
