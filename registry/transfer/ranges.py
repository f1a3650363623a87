"""One file on a web server, read by ranges from several threads, or from its start where the server has no ranges.

Ranges are requested with If-Range (RFC 9110, 13.1.5) and the tag of the first response. Where the file has changed
since, the tag is dropped and the range requested again: digests decide whether the bytes are still the right ones.
"""

from __future__ import annotations

import re
import threading

from registry.transfer.http import HttpClient, Response, TemporaryError, with_retries
from targets.errors import FetchError

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")
_CHANGED = "the bundle there was changed: try again later, or ask its publisher"


class HttpFile:
    """A file of `size` bytes at `url`."""

    def __init__(self, client: HttpClient, url: str, size: int) -> None:
        self.url, self.size = url, size
        self._client = client
        self._first = threading.Lock()
        self._ranges: bool | None = None  # not known before the first response
        self._tag: str | None = None
        self._stream: Response | None = None
        self._streamed = 0

    def read(self, offset: int, view: memoryview) -> bool:
        """Fill `view` from `offset`. Return False where the server has no ranges: then call `read_on` instead.

        Raises:
            FetchError: the server refuses, has a file of another size, or fails on all tries.
        """
        if len(view) == self.size:
            with_retries(self._client, lambda: self._read_whole(view))
            return True
        filled = 0

        def attempt() -> bool:
            nonlocal filled
            response = self._request(offset + filled, offset + len(view))
            if response is None:
                return False
            with response:
                while filled < len(view):
                    count = response.read_into(view[filled:])
                    if not count:
                        raise self._cut(filled, len(view))
                    filled += count
            return True

        return with_retries(self._client, attempt)

    def read_on(self, offset: int, view: memoryview) -> None:
        """Fill `view` from `offset` by reading from the start. Offsets of calls only grow; one thread at a time.

        Raises:
            FetchError: as `read`.
        """

        def attempt() -> None:
            if self._stream is None or self._streamed > offset:
                self.close()
                self._stream, self._streamed = self._checked(self._client.get(self.url)), 0
            end = offset + len(view)
            try:
                while self._streamed < end:
                    skipped = max(0, offset - self._streamed)
                    room = view[:skipped] if skipped else view[self._streamed - offset :]
                    count = self._stream.read_into(room)
                    if not count:
                        raise self._cut(self._streamed, self.size)
                    self._streamed += count
            except TemporaryError:
                self.close()
                raise

        with_retries(self._client, attempt)

    def close(self) -> None:
        """End the stream, if there is one."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _read_whole(self, view: memoryview) -> None:
        """Read a file that fits into one request, without ranges."""
        with self._checked(self._client.get(self.url)) as response:
            filled = 0
            while filled < len(view):
                count = response.read_into(view[filled:])
                if not count:
                    raise self._cut(filled, len(view))
                filled += count
            if response.read_into(memoryview(bytearray(1))):
                raise FetchError(
                    f"{self.url}: the server sends more than the {self.size} bytes that the manifest says", fix=_CHANGED
                )

    def _request(self, begin: int, end: int) -> Response | None:
        """Request exactly this range; None where there are no ranges. The first request goes alone."""
        with self._first:
            if self._ranges is None:
                return self._range(begin, end)
        return self._range(begin, end) if self._ranges else None

    def _range(self, begin: int, end: int) -> Response | None:
        tag = self._tag
        headers = {"Range": f"bytes={begin}-{end - 1}"} | ({"If-Range": tag} if tag else {})
        response = self._client.get(self.url, headers)
        if response.status != 206:
            return self._without_range(response, tag)
        found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if found is None or (int(found[1]), int(found[2])) != (begin, end - 1):
            response.close()
            raise TemporaryError(f"{self.url}: bytes {begin} to {end - 1} were requested, the server sends others")
        if found[3] not in ("*", str(self.size)):
            response.close()
            raise self._another_size(found[3])
        self._ranges = True
        tag = response.headers.get("ETag", "")
        self._tag = tag if tag.startswith('"') else None  # a weak one does not identify bytes
        return response

    def _without_range(self, response: Response, tag: str | None) -> Response | None:
        self._checked(response)
        if self._ranges is None:
            self._ranges, self._stream = False, response  # the whole file: `read_on` begins with it
            return None
        response.close()
        self._tag = None
        if tag is None:
            raise TemporaryError(f"{self.url}: the server answered with ranges before, and now with the whole file")
        raise TemporaryError(f"{self.url}: the file was changed while it was read")

    def _checked(self, response: Response) -> Response:
        if response.body_bytes not in (None, self.size):
            response.close()
            raise self._another_size(str(response.body_bytes))
        return response

    def _another_size(self, announced: str) -> FetchError:
        return FetchError(
            f"{self.url}: the server announces {announced} bytes; the manifest says {self.size}", fix=_CHANGED
        )

    def _cut(self, received: int, wanted: int) -> TemporaryError:
        return TemporaryError(f"{self.url}: reading broke off: {received} bytes of {wanted} came")
