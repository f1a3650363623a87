"""A file of a known size, read once from start to end, from any stream. What it says of itself is never believed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO

from targets.errors import BundleError

_PIECE = 1 << 20
REPLACE_BUNDLE = "fetch or build that bundle again"


@dataclass(frozen=True)
class Span:
    """Bytes of a file."""

    offset: int
    bytes: int


class Forwards:
    """A file of a known size, read once from start to end. Raises `BundleError` where it ends early."""

    def __init__(self, stream: BinaryIO, name: str, size: int) -> None:
        self.position = 0
        self._stream, self._name, self._size = stream, name, size

    @property
    def left(self) -> int:
        """Return how many bytes are left, by the size that was stated."""
        return self._size - self.position

    def take(self, count: int, limit: int = 1 << 30) -> bytearray:
        """Read exactly so many bytes, which are in memory as a whole: at most `limit` of them."""
        if not 0 <= count <= self.left:
            raise BundleError(
                f"{self._name} is damaged: it names {count} bytes at byte {self.position} of {self._size}",
                fix=REPLACE_BUNDLE,
            )
        if count > limit:
            raise BundleError(
                f"{self._name}: {count} bytes at byte {self.position} where at most {limit} belong",
                fix=REPLACE_BUNDLE,
            )
        content = bytearray(count)
        view = memoryview(content)
        filled = 0
        while filled < count:
            try:
                piece = self._stream.read(min(count - filled, _PIECE))
            except OSError as error:
                raise BundleError(f"{self._name} can't be read: {error}", fix=REPLACE_BUNDLE) from error
            if not piece:
                raise BundleError(
                    f"{self._name} ends at byte {self.position}, the manifest says {self._size}",
                    fix=REPLACE_BUNDLE,
                )
            view[filled : filled + len(piece)] = piece
            filled += len(piece)
            self.position += len(piece)
        return content

    def skip(self, count: int) -> None:
        """Read on past so many bytes."""
        while count > 0:
            count -= len(self.take(min(count, _PIECE)))

    def digest(self, count: int) -> str:
        """Return `sha256:<hex>` of the next bytes, however many, in little memory."""
        hasher = hashlib.sha256()
        while count:
            piece = self.take(min(count, _PIECE))
            hasher.update(piece)
            count -= len(piece)
        return "sha256:" + hasher.hexdigest()

    def digests(self, spans: Iterable[Span]) -> dict[Span, str]:
        """Return the digest of each span. They may come in any order and repeat, but not overlap."""
        found: dict[Span, str] = {}
        for span in sorted(set(spans), key=lambda span: (span.offset, span.bytes)):
            if span.offset < self.position:
                raise BundleError(f"{self._name}: two tensors overlap at byte {span.offset}", fix=REPLACE_BUNDLE)
            self.skip(span.offset - self.position)
            found[span] = self.digest(span.bytes)
        return found
