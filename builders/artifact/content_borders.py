"""Where to cut bytes into chunks so that a change moves only the borders near it.

A GGUF's head holds vocabulary, chat template and stop ids one after the other: a longer template shifts everything
after it. The same goes for a token added to a tokenizer.json, and for a graph. So there is a border after each window
of 32 bytes whose hash begins with zeros. That depends only on the window: the same content is cut the same way wherever
it is (the gear hash of FastCDC, Xia et al. 2016).
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Container, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from registry.bundle.chunks import FileDigest, digest_in_chunks
from registry.bundle.folder import files_below

WHOLE_FILE_BYTES = 1 << 16  # a smaller file is fetched as one
_WINDOW = 32
_MASK = np.uint32(((1 << 14) - 1) << 18)  # high bits, which the whole window influences; a border every 16 KiB
_LEAST_BYTES = 4096  # of a piece: runs of equal bytes could have a border at every byte
_GEAR = np.frombuffer(b"".join(hashlib.sha256(bytes([byte])).digest()[:4] for byte in range(256)), "<u4")
_BLOCK = 1 << 20  # hashed at once


def content_digests(folder: Path, known: Container[str]) -> dict[str, FileDigest]:
    """Return digests of the files below a folder that are neither known nor small, with chunks cut by content."""
    digests = {}
    for name in files_below(folder):
        path = folder / name
        if name in known or path.stat().st_size < WHOLE_FILE_BYTES:
            continue
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            digests[name] = digest_in_chunks(path, list(content_borders(content)))
    return digests


def content_pieces(content: bytes) -> Iterator[memoryview]:
    """Yield the pieces between borders. Joined, they are the content."""
    begin = 0
    for border in content_borders(content):
        yield memoryview(content)[begin:border]
        begin = border
    if begin < len(content):
        yield memoryview(content)[begin:]


def content_borders(content: bytes | mmap.mmap) -> Iterator[int]:
    """Yield the offsets of the borders, in order."""
    begin = 0
    for start in range(0, len(content), _BLOCK):
        before = max(0, start - _WINDOW + 1)
        hashes = _window_hashes(content[before : start + _BLOCK])
        for border in np.flatnonzero((hashes & _MASK) == 0) + 1 + before:
            if border > start and border - begin >= _LEAST_BYTES:
                yield (begin := int(border))


def _window_hashes(content: bytes) -> NDArray[np.uint32]:
    """Return the hash of the window ending at each byte: the sum of its bytes' values, doubled for each later byte."""
    hashes = _GEAR[np.frombuffer(content, np.uint8)]
    width = 1
    while width < _WINDOW:
        hashes[width:] += hashes[:-width] << np.uint32(width)
        width *= 2
    return hashes
