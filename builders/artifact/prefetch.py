"""Work done on threads a little ahead of who uses it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Made = TypeVar("Made")


def made_ahead(calls: Iterable[Callable[[], Made]], threads: int) -> Generator[Made]:
    """Give the calls' results in their order. While one is used, `threads` more are under way or done.

    What a call raises is raised in its place, and calls that have not begun are not made; nor are they when the
    generator is closed (`contextlib.closing`).
    """
    made: deque[Future[Made]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for call in calls:
            made.append(pool.submit(call))
            if len(made) > threads:
                yield made.popleft().result()
        while made:
            yield made.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
