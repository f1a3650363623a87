"""A blob on S3 as a stream, whose connection is opened again where it breaks."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from typing import Any


class BlobStream(io.RawIOBase):
    """A blob's bytes as a stream. Raises `ConnectionError` where they stop coming."""

    _WAITS_SECONDS = (0.0, 0.5, 2.0, 5.0)

    def __init__(self, opened_at: Callable[[int], Any], size: int) -> None:
        """`opened_at` returns botocore's stream of the bytes from an offset on."""
        self._opened_at, self._size = opened_at, size
        self._position = 0
        self._body: Any = None
        self._cause: Exception | None = None

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read some bytes; return 0 at the end."""
        view = memoryview(buffer)
        if self._position >= self._size or not view:
            return 0
        for wait in self._WAITS_SECONDS:
            time.sleep(wait)
            if piece := self._piece(len(view)):
                view[: len(piece)] = piece
                self._position += len(piece)
                return len(piece)
            self._drop()
        why = f": {self._cause}" if self._cause is not None else ""
        raise ConnectionError(f"the connection broke at byte {self._position} of {self._size}, again and again{why}")

    def close(self) -> None:
        """Close the connection."""
        self._drop()
        super().close()

    def _piece(self, size: int) -> bytes:
        """Return some bytes, none where the connection breaks."""
        from botocore.exceptions import BotoCoreError
        from urllib3.exceptions import HTTPError

        try:
            if self._body is None:
                self._body = self._opened_at(self._position)
            return bytes(self._body.read(size))
        except (BotoCoreError, HTTPError, OSError) as error:
            self._cause = error
            return b""

    def _drop(self) -> None:
        if self._body is not None:
            self._body.close()
            self._body = None
