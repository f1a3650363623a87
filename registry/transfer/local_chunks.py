"""Where bundles on this machine hold bytes of a wanted bundle: whole files, and chunks at any offset of any file.

Delta files add the chunks that can be rebuilt from what is on this machine.
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
class FileRange:
    """Bytes of a file on this machine, from `offset` on, as a manifest says. Whoever reads them verifies them."""

    path: Path
    offset: int

    def read(self, view: memoryview) -> bool:
        """Fill `view`. Return False where those bytes are not there."""
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
class DeltaChunk:
    """A chunk that a delta file rebuilds."""

    delta: DeltaFile
    chunk: Chunk

    def read(self, view: memoryview) -> bool:
        """Fill `view`. Return False where the delta, or the bundle that it applies to, is damaged."""
        return self.delta.rebuild(self.chunk, view)


class LocalChunks:
    """An index of bundles' files and chunks by their digests, read from their manifests alone.

    `deltas` are used for chunks that no bundle has.
    """

    def __init__(self, bundles: Iterable[Bundle] = (), deltas: Sequence[DeltaFile] = ()) -> None:
        self._deltas = deltas
        self._files: dict[str, Path] = {}
        self._chunks: dict[Chunk, FileRange] = {}
        for bundle in bundles:
            for entry in bundle.manifest.files:
                path = bundle.file(entry.path)
                self._files.setdefault(entry.sha256, path)
                offset = 0
                for chunk in entry.chunks:
                    self._chunks.setdefault(chunk, FileRange(path, offset))
                    offset += chunk.bytes

    def find(self, entry: FileEntry, offset: int, chunk: Chunk | None) -> FileRange | DeltaChunk | None:
        """Return where to read what a file has at `offset`: the same file, a chunk of any file, or a delta's chunk."""
        if (path := self._files.get(entry.sha256)) is not None:
            return FileRange(path, offset)
        if chunk is None:
            return None
        if (found := self._chunks.get(chunk)) is not None:
            return found
        return next((DeltaChunk(delta, chunk) for delta in self._deltas if chunk in delta), None)
