"""What bundles on this machine have of a bundle that is wanted: whole files, and chunks at any offset of any file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from registry.bundle import Bundle, FileEntry
from registry.chunks import Chunk


@dataclass(frozen=True)
class Place:
    """Where bytes should lie on this machine, by what a manifest says: who reads them hashes them."""

    path: Path
    offset: int


class Known:
    """An index of bundles' files and chunks by their digests. Nothing but the manifests is read for it."""

    def __init__(self, bundles: Iterable[Bundle]) -> None:
        self._files: dict[str, Place] = {}
        self._chunks: dict[Chunk, Place] = {}
        for bundle in bundles:
            for entry in bundle.manifest.files:
                path = bundle.file(entry.path)
                self._files.setdefault(entry.sha256, Place(path, 0))
                offset = 0
                for chunk in entry.chunks:
                    self._chunks.setdefault(chunk, Place(path, offset))
                    offset += chunk.bytes

    def place_of(self, entry: FileEntry, offset: int, chunk: Chunk | None) -> Place | None:
        """Where to read what a file has at `offset`: in the same file elsewhere, or in a chunk of any file."""
        if (whole := self._files.get(entry.sha256)) is not None:
            return Place(whole.path, offset)
        return None if chunk is None else self._chunks.get(chunk)
