"""Files of gigabytes, written and read past the page cache where the system can.

What is written here is seldom read again soon. In the page cache it would push out what is (the checkpoint that others
build from), and cost a copy and a fresh page for each 4 KiB: on a virtual machine that gets its memory lazily, more
time than the disk takes. With O_DIRECT (open(2)) whole blocks go to the disk from one buffer that is used again and
again. File systems without it, and other systems, write as usual. The same holds for reading what memory can't hold.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from registry.files.owned import create_file

_BLOCK = 4096
_BUFFER_BYTES = 8 << 20  # a whole number of blocks of any disk: what O_DIRECT asks of addresses, offsets and lengths


class LargeFile:
    """A new file, appended to. Memory: one buffer of 8 MiB.

    Raises `FileExistsError` where something has its name, `OSError` where the disk is full.
    """

    def __init__(self, path: Path) -> None:
        self._handle = create_file(path, 0o644)  # a download continues no file that the group may write
        self._direct = _set_direct(self._handle, on=True)
        self._buffer = memoryview(mmap.mmap(-1, _BUFFER_BYTES))  # starts at a page's border
        self._filled = 0
        self.position = 0

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes. They are on their way to the disk when the file is closed."""
        rest = memoryview(data).cast("B")
        self.position += len(rest)
        while len(rest):
            fits = min(len(rest), _BUFFER_BYTES - self._filled)
            self._buffer[self._filled : self._filled + fits] = rest[:fits]
            self._filled += fits
            rest = rest[fits:]
            if self._filled == _BUFFER_BYTES:
                self._flush()

    def close(self) -> None:
        """Write the rest. The file can't be used after it, whether this succeeds or not."""
        if self._handle < 0:
            return
        try:
            self._flush()
        finally:
            os.close(self._handle)
            self._handle = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._filled = 0  # the rest is not wanted
        self.close()

    def _flush(self) -> None:
        rest = self._buffer[: self._filled]
        while len(rest):
            try:
                rest = rest[os.write(self._handle, rest) :]
            except OSError as error:
                if not self._direct or error.errno != errno.EINVAL:
                    raise
                # No whole number of blocks: the file's last bytes, or what a full disk has left over.
                self._direct = False
                _set_direct(self._handle, on=False)
        self._filled = 0


def read_pieces(path: Path, start: int = 0, stop: int | None = None) -> Iterator[memoryview]:
    """Yield a file's bytes [start, stop) in order, in pieces of at most 8 MiB; each is overwritten by the next.

    All pieces but the first and the last begin and end at multiples of 4,096. Raises `OSError`.
    """
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    _set_direct(handle, on=True)
    try:
        end = os.fstat(handle).st_size if stop is None else stop
        buffer = memoryview(mmap.mmap(-1, _BUFFER_BYTES))
        position = start - start % _BLOCK
        while position < end:
            count = os.preadv(handle, [buffer], position)
            if position + count < end:
                count -= count % _BLOCK  # a short read: the next one starts at a block again
            if count <= 0:
                raise OSError(errno.EIO, f"{path} ends at {position}, {end} was expected")
            yield buffer[max(0, start - position) : min(count, end - position)]
            position += count
    finally:
        os.close(handle)


def _set_direct(handle: int, *, on: bool) -> bool:
    """Let a file be read and written past the page cache, or as usual. Return False where that can't be."""
    direct = getattr(os, "O_DIRECT", 0)
    if not direct:
        return False
    import fcntl  # not on Windows, which has no O_DIRECT either

    flags = fcntl.fcntl(handle, fcntl.F_GETFL)
    try:
        fcntl.fcntl(handle, fcntl.F_SETFL, flags | direct if on else flags & ~direct)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system without it
            raise
        return False
    return True
