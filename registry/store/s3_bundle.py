"""A bundle in a bucket as a `Remote`: its files by presigned URLs, each signed when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from registry.bundle.manifest import FileEntry, Manifest
from registry.transfer.remote import RemoteDelta
from targets.secrets import shown


@dataclass
class S3Bundle:
    """A `Remote`. `sign` returns the URL of a blob, `location_of` its `s3://` URI for messages."""

    manifest: Manifest
    sign: Callable[[str], str]
    location_of: Callable[[str], str]
    deltas: tuple[RemoteDelta, ...] = ()  # those of a catalog are its own
    _signed: dict[str, str] = field(default_factory=dict)

    @property
    def manifest_url(self) -> str:
        """The manifest's URI."""
        return self.location_of(self.manifest.digest)

    def url_of(self, entry: FileEntry) -> str:
        """Sign a URL of the file's blob."""
        url = self.sign(entry.digest)
        self._signed[shown(url)] = self.location_of(entry.digest)
        return url

    def in_message(self, text: str) -> str:
        """Return a text with the URLs that were signed replaced by `s3://` URIs."""
        for url, location in self._signed.items():
            text = text.replace(url, location)
        return text
