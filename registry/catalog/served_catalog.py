"""What a server knows about the catalog in its own store: its newest version, and which blobs are published.

A store holds more than its catalog: builds that nobody has approved. Only blobs of published releases are served.
Releases do not change, so a blob that was published once stays published.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from registry.catalog.documents import models_of, naming_hash, release_path, releases_of
from registry.catalog.published_state import NO_CATALOG_FIX, Published, read_published
from registry.store.protocol import Store
from targets.errors import PublicationError
from targets.references import Version

REFRESH_SECONDS = 1.0


@dataclass
class ServedCatalog:
    """The catalog in a store, read again after a second, or for an unknown blob. Safe for many threads."""

    store: Store
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _documents: Published | None = None
    _read_at: float = 0.0
    _indexed: set[str] = field(default_factory=set)  # documents' digests whose blobs are known
    _blobs: set[str] = field(default_factory=set)

    def documents(self) -> Published:
        """Return the newest version. Raises `PublicationError` where the store has no catalog, or a damaged one."""
        with self._lock:
            return self._newest()

    def publishes(self, digest: str) -> bool:
        """Return True where a published release has the blob. Raises `PublicationError`, `StoreError`."""
        with self._lock:
            return digest in self._blobs or self._finds(digest, self._newest()) or self._finds(digest, self._read())

    def _finds(self, digest: str, documents: Published) -> bool:
        """Index releases, newest first, until one has the blob."""
        for model in models_of(documents.paths):
            for release in sorted(releases_of(model, documents.paths), key=Version.parse, reverse=True):
                self._index(documents, model, release)
                if digest in self._blobs:
                    return True
        return False

    def _newest(self) -> Published:
        if self._documents is not None and time.monotonic() - self._read_at < REFRESH_SECONDS:
            return self._documents
        return self._read()

    def _read(self) -> Published:
        published = read_published(self.store, None)
        if published.tag is None:
            raise PublicationError(f"{self.store.uri} has no catalog", fix=NO_CATALOG_FIX)
        if self._documents is None or published.tag != self._documents.tag:
            self._documents = published
        self._read_at = time.monotonic()
        return self._documents

    def _index(self, documents: Published, model: str, release: str) -> None:
        """Index the blobs of a release, once."""
        digest = naming_hash(documents.files[release_path(model, release)])
        if digest in self._indexed:
            return
        self._blobs |= documents.blobs(model, release)
        self._indexed.add(digest)
