"""How fast an answer must come: a least rate, and an end to headers and trailers. For urllib3, boto3 and MLflow alike.

A timeout bounds one wait for bytes, and a server that sends one byte a second never meets it. So each answer is held to

- `LEAST_BYTES_PER_SECOND` over each `PACE_SECONDS` that we spend waiting for it, its head included: together with the
  length that the reader accepts, that bounds the whole exchange;
- `OVERHEAD_BYTES_LIMIT` in a row that are no part of a body: interim answers (`100 Continue`), headers, the framing of
  chunks, trailers.

Time in which nobody reads, because a disk is slow or there is nothing to do, does not count.
"""

from __future__ import annotations

import http.client
import io
import math
import time
from typing import Any, cast

LEAST_BYTES_PER_SECOND = 1000
PACE_SECONDS = 60.0
OVERHEAD_BYTES_LIMIT = 1 << 20
_SHORTEST_WAIT_SECONDS = 0.001


class PaceError(OSError):
    """An answer comes too slowly, or has no end. Its text says which."""


class Pace:
    """What came of one answer, and how long it was waited for, in this `seconds`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._waited = 0.0
        self._content = 0
        self._overhead = 0

    def patience(self, timeout: float | None) -> float | None:
        """Return how long the next wait may be, at most `timeout`."""
        if self._seconds == math.inf or self._content >= LEAST_BYTES_PER_SECOND * self._seconds:
            return timeout
        left = max(self._seconds - self._waited, _SHORTEST_WAIT_SECONDS)
        return left if timeout is None else min(left, timeout)

    def received(self, count: int, seconds: float) -> None:
        """Count bytes from the network, of whatever kind, after a wait. Raises `PaceError`."""
        self._waited += seconds
        self._overhead += count
        if self._overhead > OVERHEAD_BYTES_LIMIT:
            raise PaceError(f"it sends headers or trailers without end, {self._overhead} bytes of them")
        if self._waited < self._seconds:
            return
        if self._content < LEAST_BYTES_PER_SECOND * self._seconds:
            raise PaceError(f"it is too slow: {self._content} bytes of content in {self._waited:.0f} s")
        self._waited, self._content = 0.0, 0

    def delivered(self, count: int) -> None:
        """Count bytes of the body, which a reader has received."""
        self._content += count
        self._overhead = 0


class PacedResponse(http.client.HTTPResponse):
    """An answer that is held to its pace. Whoever reads its body reports it: `pace.delivered`."""

    only_reads = False  # S3 may need minutes to complete an upload, and sends a space now and then meanwhile

    def __init__(self, sock: Any, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        is_read = options.get("method") in ("GET", "HEAD")
        self.pace = Pace(self.pace_seconds() if is_read or not self.only_reads else math.inf)
        opened: Any = self.fp
        self.fp = io.BufferedReader(_PacedStream(sock, opened.detach(), self))

    def pace_seconds(self) -> float:
        """Return over which time its rate is measured."""
        return PACE_SECONDS

    def count(self, count: int, seconds: float) -> None:
        """Count bytes from the network. Raises `PaceError`."""
        self.pace.received(count, seconds)


class PacedInterim:
    """A socket while a client of `Expect: 100-continue` reads the interim answer: held to the pace of an answer's head.

    Everything else that is done with the socket passes.
    """

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self.pace = Pace(PACE_SECONDS)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def makefile(self, *_: Any, **__: Any) -> io.RawIOBase:
        """Return the socket's unbuffered stream: what follows the interim answer stays in the socket."""
        return _PacedStream(self._sock, self._sock.makefile("rb", 0), self)

    def count(self, count: int, seconds: float) -> None:
        """Count bytes from the network. Raises `PaceError`."""
        if not count:
            raise PaceError("the connection was closed in the middle of an interim answer")
        self.pace.received(count, seconds)


class SelfPacedResponse(PacedResponse):
    """The same for readers that report nothing: all that comes after the head is content."""

    def count(self, count: int, seconds: float) -> None:
        """Count bytes from the network. Raises `PaceError`."""
        if cast("object", self.headers) is not None:  # they are None up to their end
            self.pace.delivered(count)
            count = 0
        super().count(count, seconds)


class _PacedStream(io.RawIOBase):
    """A socket's stream that reports to a response how many bytes came, and how long that took."""

    def __init__(self, sock: Any, stream: Any, response: PacedResponse | PacedInterim) -> None:
        self._sock, self._stream, self._response = sock, stream, response
        self._timeout = sock.gettimeout()

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read some bytes. Raises `PaceError`, `TimeoutError`."""
        self._sock.settimeout(self._response.pace.patience(self._timeout))
        started = time.monotonic()
        count = int(self._stream.readinto(buffer) or 0)
        self._sock.settimeout(self._timeout)  # for the next request, which may be a large upload
        self._response.count(count, time.monotonic() - started)
        return count

    def fileno(self) -> int:
        """Return the socket's number."""
        return int(self._stream.fileno())

    def close(self) -> None:
        """Close the socket's stream."""
        self._stream.close()
        super().close()
