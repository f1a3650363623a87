"""A lock between processes of this machine, or of a shared disk that has locks: flock(2) on a file kept for it.

The system releases it when its process ends, however that ends; so there is no stale lock. The file stays: it holds
nothing, is never truncated, and a link in its place is refused, not followed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_POLL_SECONDS = 0.05


@contextmanager
def file_lock(path: Path, *, mode: int = 0o666, on_wait: Callable[[float], None] | None = None) -> Iterator[None]:
    """Hold the lock of the file at `path`, which is created where it is missing, in a folder that exists.

    Args:
        path: of the lock file.
        mode: its permissions where it is created, less the umask's.
        on_wait: called again and again with the seconds waited so far, while another process holds the lock. What it
            raises ends the wait.

    Raises:
        OSError: the file can't be opened; `ELOOP` where it is a link.
    """
    handle = _take(path, mode, wait=True) if on_wait is None else _poll(path, mode, on_wait)
    try:
        yield
    finally:
        os.close(handle)  # which releases the lock


def try_lock(path: Path, *, mode: int = 0o666) -> int | None:
    """Take the lock and return the open file that holds it until it is closed; None where another one holds it.

    Raises `OSError` as `file_lock` does.
    """
    try:
        return _take(path, mode, wait=False)
    except BlockingIOError:
        return None


def _poll(path: Path, mode: int, on_wait: Callable[[float], None]) -> int:
    started = time.monotonic()
    while (handle := try_lock(path, mode=mode)) is None:
        on_wait(time.monotonic() - started)
        time.sleep(_POLL_SECONDS)
    return handle


def _take(path: Path, mode: int, *, wait: bool) -> int:
    import fcntl  # POSIX, as the package is

    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(handle, path):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # while it waited, somebody removed the file or put another one there


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.lstat())
    except FileNotFoundError:
        return False
