"""Where to cut bytes so that a change moves only the borders near it.

A GGUF's head holds vocabulary, chat template and stop ids one after the other: a longer template shifts all that
follows. A border stands after each window of 32 bytes whose hash begins with zeros, a matter of the window alone: the
same content is cut alike wherever it lies (the gear hash of FastCDC, Xia et al. 2016).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np

_WINDOW = 32
_MASK = np.uint32(((1 << 14) - 1) << 18)  # high bits, which the whole window has a part in; a border in 16 KiB
_LEAST_BYTES = 4096  # of a piece: rows of equal bytes may hold a border a byte
_GEAR = np.frombuffer(b"".join(hashlib.sha256(bytes([byte])).digest()[:4] for byte in range(256)), "<u4")


def content_pieces(content: bytes) -> Iterator[memoryview]:
    """Cut bytes at borders that their content sets. Joined, the pieces are the content."""
    values = _GEAR[np.frombuffer(content, np.uint8)]
    hashes = np.zeros_like(values)
    for back in range(min(_WINDOW, len(values))):
        hashes[back:] += values[: len(values) - back] << np.uint32(back)
    begin = 0
    for border in np.flatnonzero((hashes & _MASK) == 0) + 1:
        if border - begin >= _LEAST_BYTES:
            yield memoryview(content)[begin:border]
            begin = int(border)
    if begin < len(content):
        yield memoryview(content)[begin:]
