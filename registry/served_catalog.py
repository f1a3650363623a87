"""What a server knows of the catalog in its own store: documents, read once a version, and which blobs are published.

A store holds more than a catalog names: builds that nobody has approved. Only what a published release names is given
out. Releases do not change, so what was once found published stays so.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TypeVar

from registry.catalog_documents import (
    ChannelDocument,
    ReleaseDocument,
    channel_path,
    models_of,
    release_path,
    releases_of,
)
from registry.catalog_state import Published, read_published
from registry.store import Store
from targets.errors import PublicationError
from targets.references import Version

LOOK_AGAIN_SECONDS = 1.0

_Document = TypeVar("_Document", ChannelDocument, ReleaseDocument)


@dataclass
class ServedDocuments:
    """One version of the catalog: `catalog_choice.Documents`."""

    published: Published
    _read: dict[str, ChannelDocument | ReleaseDocument | None] = field(default_factory=dict)

    @property
    def paths(self) -> Collection[str]:
        """TUF's names of all documents."""
        return self.published.files.keys()

    def channel(self, model: str, channel: str) -> ChannelDocument | None:
        """Give a channel, None where it is not published. Raises `PublicationError`."""
        return self._document(ChannelDocument, channel_path(model, channel))

    def release(self, model: str, release: str) -> ReleaseDocument | None:
        """Give a release, None where it is not published. Raises `PublicationError`."""
        return self._document(ReleaseDocument, release_path(model, release))

    def _document(self, kind: type[_Document], path: str) -> _Document | None:
        if path not in self._read:
            self._read[path] = self.published.document(kind, path)
        found = self._read[path]
        assert found is None or isinstance(found, kind), path
        return found


@dataclass
class ServedCatalog:
    """The catalog in a store, looked at again after a second, or for a blob that is not known. For many threads."""

    store: Store
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _documents: ServedDocuments | None = None
    _looked: float = 0.0
    _indexed: set[str] = field(default_factory=set)  # documents' digests whose blobs are known
    _blobs: set[str] = field(default_factory=set)

    def documents(self) -> ServedDocuments:
        """Give the newest version. Raises `PublicationError` where the store holds no catalog, or a damaged one."""
        with self._lock:
            return self._newest()

    def publishes(self, digest: str) -> bool:
        """True where a published release names the blob. Raises `PublicationError`, `StoreError`."""
        with self._lock:
            return digest in self._blobs or self._finds(digest, self._newest()) or self._finds(digest, self._look())

    def _finds(self, digest: str, documents: ServedDocuments) -> bool:
        """Learn releases, newest first, until one names the blob."""
        for model in models_of(documents.paths):
            for release in sorted(releases_of(model, documents.paths), key=Version.parse, reverse=True):
                self._index(documents, model, release)
                if digest in self._blobs:
                    return True
        return False

    def _newest(self) -> ServedDocuments:
        if self._documents is not None and time.monotonic() - self._looked < LOOK_AGAIN_SECONDS:
            return self._documents
        return self._look()

    def _look(self) -> ServedDocuments:
        published = read_published(self.store, None)
        if published.tag is None:
            raise PublicationError(f"{self.store.uri} holds no catalog", fix="publish a channel: phipack publish MODEL")
        if self._documents is None or published.tag != self._documents.published.tag:
            self._documents = ServedDocuments(published)
        self._looked = time.monotonic()
        return self._documents

    def _index(self, documents: ServedDocuments, model: str, release: str) -> None:
        """Learn the blobs of a release, once."""
        digest = documents.published.files[release_path(model, release)].hashes["sha256"]
        if digest in self._indexed:
            return
        document = documents.release(model, release)
        for cell in document.cells.values() if document is not None else ():
            self._blobs.add(cell.bundle)
            self._blobs.update(delta.blob for delta in cell.deltas)
            self._blobs.update(entry.digest for entry in self.store.manifest(cell.bundle).files)
        self._indexed.add(digest)
