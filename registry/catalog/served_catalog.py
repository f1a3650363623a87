"""What a server knows of the catalog in its own store: its newest version, and which blobs are published.

A store holds more than a catalog names: builds that nobody has approved. Only what a published release names is given
out. Releases do not change, so what was once found published stays so.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from registry.catalog.documents import models_of, release_path, releases_of
from registry.catalog.published_state import Published, read_published
from registry.store.protocol import Store
from targets.errors import PublicationError
from targets.references import Version

LOOK_AGAIN_SECONDS = 1.0


@dataclass
class ServedCatalog:
    """The catalog in a store, looked at again after a second, or for a blob that is not known. For many threads."""

    store: Store
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _documents: Published | None = None
    _looked: float = 0.0
    _indexed: set[str] = field(default_factory=set)  # documents' digests whose blobs are known
    _blobs: set[str] = field(default_factory=set)

    def documents(self) -> Published:
        """Give the newest version. Raises `PublicationError` where the store holds no catalog, or a damaged one."""
        with self._lock:
            return self._newest()

    def publishes(self, digest: str) -> bool:
        """True where a published release names the blob. Raises `PublicationError`, `StoreError`."""
        with self._lock:
            return digest in self._blobs or self._finds(digest, self._newest()) or self._finds(digest, self._look())

    def _finds(self, digest: str, documents: Published) -> bool:
        """Learn releases, newest first, until one names the blob."""
        for model in models_of(documents.paths):
            for release in sorted(releases_of(model, documents.paths), key=Version.parse, reverse=True):
                self._index(documents, model, release)
                if digest in self._blobs:
                    return True
        return False

    def _newest(self) -> Published:
        if self._documents is not None and time.monotonic() - self._looked < LOOK_AGAIN_SECONDS:
            return self._documents
        return self._look()

    def _look(self) -> Published:
        published = read_published(self.store, None)
        if published.tag is None:
            raise PublicationError(f"{self.store.uri} holds no catalog", fix="publish a channel: phipack publish MODEL")
        if self._documents is None or published.tag != self._documents.tag:
            self._documents = published
        self._looked = time.monotonic()
        return self._documents

    def _index(self, documents: Published, model: str, release: str) -> None:
        """Learn the blobs of a release, once."""
        digest = documents.files[release_path(model, release)].hashes["sha256"]
        if digest in self._indexed:
            return
        self._blobs |= documents.blobs(model, release)
        self._indexed.add(digest)
