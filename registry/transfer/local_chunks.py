"""What bundles on this machine have of a bundle that is wanted: whole files, and chunks at any offset of any file.

Delta files add chunks that are made from what is here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from registry.bundle.chunks import Chunk
from registry.bundle.folder import Bundle
from registry.bundle.manifest import FileEntry
from registry.transfer.delta import DeltaFile

_PIECE = 1 << 20


@dataclass(frozen=True)
class Place:
    """Where bytes should lie on this machine, by what a manifest says: who reads them hashes them."""

    path: Path
    offset: int

    def read(self, view: memoryview) -> bool:
        """Fill `view`; False where those bytes are not there."""
        try:
            with self.path.open("rb", buffering=0) as stream:
                stream.seek(self.offset)
                filled = 0
                while filled < len(view):
                    count = stream.readinto(view[filled : filled + _PIECE])
                    if not count:
                        return False
                    filled += count
        except OSError:
            return False
        return True


@dataclass(frozen=True)
class Making:
    """A chunk that a delta file makes."""

    delta: DeltaFile
    chunk: Chunk

    def read(self, view: memoryview) -> bool:
        """Fill `view`; False where the delta, or what it is made from, is damaged."""
        return self.delta.make(self.chunk, view)


class Known:
    """An index of bundles' files and chunks by their digests. Nothing but the manifests is read for it.

    `deltas`: asked for chunks that no bundle has.
    """

    def __init__(self, bundles: Iterable[Bundle], deltas: Sequence[DeltaFile] = ()) -> None:
        self._deltas = deltas
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

    def place_of(self, entry: FileEntry, offset: int, chunk: Chunk | None) -> Place | Making | None:
        """Where to read what a file has at `offset`: in the same file elsewhere, in a chunk of any file, by a delta."""
        if (whole := self._files.get(entry.sha256)) is not None:
            return Place(whole.path, offset)
        if chunk is None:
            return None
        if (place := self._chunks.get(chunk)) is not None:
            return place
        return next((Making(delta, chunk) for delta in self._deltas if chunk in delta), None)
