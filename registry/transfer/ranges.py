"""One file on a web server, read by ranges from several threads, or from its start where the server has no ranges.

Ranges ask with If-Range (RFC 9110, 13.1.5) for the file that the first answer was of. Where it has been changed, the
tag is dropped and the range asked for again: whether the bytes are still the right ones, their digests say.
"""

from __future__ import annotations

import re
import threading

from registry.transfer.http import Answer, TemporaryError, Web, persist
from targets.errors import FetchError

_CONTENT_RANGE = re.compile(r"bytes ([0-9]+)-([0-9]+)/([0-9]+|\*)")


class HttpFile:
    """A file of `size` bytes at `url`."""

    def __init__(self, web: Web, url: str, size: int) -> None:
        self.url, self.size = url, size
        self._web = web
        self._first = threading.Lock()
        self._ranges: bool | None = None  # nobody has asked yet
        self._tag: str | None = None
        self._stream: Answer | None = None
        self._streamed = 0

    def read(self, offset: int, view: memoryview) -> bool:
        """Fill `view` from `offset`. False where the server has no ranges: `read_on` is to be called instead.

        Raises `FetchError`: the server refuses, has a file of another size, or fails for longer than patience lasts.
        """
        if len(view) == self.size:
            persist(self._web, lambda: self._read_whole(view))
            return True
        filled = 0

        def attempt() -> bool:
            nonlocal filled
            answer = self._ask(offset + filled, offset + len(view))
            if answer is None:
                return False
            with answer:
                while filled < len(view):
                    count = answer.read_into(view[filled:])
                    if not count:
                        raise self._cut(filled, len(view))
                    filled += count
            return True

        return persist(self._web, attempt)

    def read_on(self, offset: int, view: memoryview) -> None:
        """Fill `view` from `offset` by reading from the start; offsets of calls may only grow. One thread at a time."""

        def attempt() -> None:
            if self._stream is None or self._streamed > offset:
                self.close()
                self._stream, self._streamed = self._checked(self._web.get(self.url)), 0
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

        persist(self._web, attempt)

    def close(self) -> None:
        """End the stream, if there is one."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _read_whole(self, view: memoryview) -> None:
        """Read a file that one request gives, without ranges."""
        with self._checked(self._web.get(self.url)) as answer:
            filled = 0
            while filled < len(view):
                count = answer.read_into(view[filled:])
                if not count:
                    raise self._cut(filled, len(view))
                filled += count
            if answer.read_into(memoryview(bytearray(1))):
                raise FetchError(
                    f"{self.url}: the server sends more than the {self.size} bytes that the manifest says",
                    fix="the bundle there was changed",
                )

    def _ask(self, begin: int, end: int) -> Answer | None:
        """Give the answer of exactly this range; None where there are no ranges. Only the first asks alone."""
        with self._first:
            if self._ranges is None:
                return self._answer(begin, end)
        return self._answer(begin, end) if self._ranges else None

    def _answer(self, begin: int, end: int) -> Answer | None:
        tag = self._tag
        headers = {"Range": f"bytes={begin}-{end - 1}"} | ({"If-Range": tag} if tag else {})
        answer = self._web.get(self.url, headers)
        if answer.status != 206:
            return self._without_range(answer, tag)
        found = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        if found is None or (int(found[1]), int(found[2])) != (begin, end - 1):
            answer.close()
            raise TemporaryError(f"{self.url}: asked for bytes {begin} to {end - 1}, the server sends others")
        if found[3] not in ("*", str(self.size)):
            answer.close()
            raise self._another_size(found[3])
        self._ranges = True
        given = answer.headers.get("ETag", "")
        self._tag = given if given.startswith('"') else None  # weak ones do not vouch for bytes
        return answer

    def _without_range(self, answer: Answer, tag: str | None) -> Answer | None:
        self._checked(answer)
        if self._ranges is None:
            self._ranges, self._stream = False, answer  # the whole file: it is what `read_on` begins with
            return None
        answer.close()
        self._tag = None
        if tag is None:
            raise TemporaryError(f"{self.url}: the server gave ranges, and now gives the whole file")
        raise TemporaryError(f"{self.url}: the file was changed while it was read")

    def _checked(self, answer: Answer) -> Answer:
        if answer.body_bytes not in (None, self.size):
            answer.close()
            raise self._another_size(str(answer.body_bytes))
        return answer

    def _another_size(self, announced: str) -> FetchError:
        return FetchError(
            f"{self.url}: the server announces {announced} bytes; the manifest says {self.size}",
            fix="the bundle there was changed",
        )

    def _cut(self, received: int, wanted: int) -> TemporaryError:
        return TemporaryError(f"{self.url}: reading broke off: {received} bytes of {wanted} came")
