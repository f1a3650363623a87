"""A lock between processes of this machine, or of a shared disk that has locks: flock(2) on a file kept for it.

The system releases it when its process ends, however that ends; so there is no stale lock. The file holds nothing, and
is never truncated; its time says when the lock was taken last. What is no regular file, or has a second name, is
refused (`owned.py`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from registry.files.owned import open_or_create

_POLL_SECONDS = 0.05


@contextmanager
def file_lock(
    path: Path, *, mode: int = 0o666, on_wait: Callable[[float], None] | None = None, removed: bool = False
) -> Iterator[None]:
    """Hold the lock of the file at `path`, which is created where it is missing, in a folder that exists.

    Args:
        path: of the lock file.
        mode: its permissions where it is created, less the umask's.
        on_wait: called again and again while another process holds the lock, with the seconds that this one has held
            it, as far as they were waited for. What it raises ends the wait.
        removed: remove the file afterwards, where only this user's processes use it.

    Raises:
        OSError: the file can't be opened. `NotOwnedError`: it is a link, or no regular file.
    """
    handle = _take(path, mode, wait=True) if on_wait is None else _poll(path, mode, on_wait)
    try:
        yield
    finally:
        if removed:
            with suppress(OSError):
                path.unlink()  # who waits for it sees that, and takes the lock of a new one
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
    since, taken = time.monotonic(), _time(path)
    while (handle := try_lock(path, mode=mode)) is None:
        if (now := _time(path)) != taken:  # the next holder's turn
            since, taken = time.monotonic(), now
        on_wait(time.monotonic() - since)
        time.sleep(_POLL_SECONDS)
    return handle


def _take(path: Path, mode: int, *, wait: bool) -> int:
    import fcntl  # POSIX, as the package is

    while True:
        handle = open_or_create(path, mode, own=False)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(handle, path):
                with suppress(OSError):
                    os.utime(handle)
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


def _time(path: Path) -> int:
    try:
        return path.lstat().st_mtime_ns
    except FileNotFoundError:
        return 0
