"""How python-tuf's client reads a catalog's metadata: through our own connections, retries and limits."""

from __future__ import annotations

from collections.abc import Iterator

from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import FetcherInterface

from registry.transfer.http import RefusedError, Web, read_small

_BYTES_LIMIT = 5_000_000  # of any metadata: python-tuf's own limit for targets


class WebFetcher(FetcherInterface):
    """Downloads whole documents, each within its limit."""

    def __init__(self, web: Web) -> None:
        self._web = web

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """Read a document. Raises `DownloadHTTPError` where the server refuses, `FetchError` where it fails."""
        try:
            return read_small(self._web, url, min(max_length, _BYTES_LIMIT))
        except RefusedError as error:
            raise DownloadHTTPError(str(error), error.status) from error

    def _fetch(self, url: str) -> Iterator[bytes]:
        yield self.download_bytes(url, _BYTES_LIMIT)
