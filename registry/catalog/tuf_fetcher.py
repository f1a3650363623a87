"""How python-tuf's client downloads a catalog's metadata: with our own connections, retries and limits."""

from __future__ import annotations

from collections.abc import Iterator

from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import FetcherInterface

from registry.transfer.http import HttpClient, RefusedError, read_document

_BYTES_LIMIT = 5_000_000  # of any metadata: python-tuf's own limit for targets


class MetadataFetcher(FetcherInterface):
    """Downloads whole documents, each within its limit."""

    def __init__(self, client: HttpClient) -> None:
        self._client = client

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """Download a document.

        Raises:
            DownloadHTTPError: the server refuses; python-tuf expects it after the newest root.
            FetchError: the server does not answer, or the document is too large.
        """
        try:
            return read_document(self._client, url, min(max_length, _BYTES_LIMIT))
        except RefusedError as error:
            raise DownloadHTTPError(error.problem, error.status) from error

    def _fetch(self, url: str) -> Iterator[bytes]:
        yield self.download_bytes(url, _BYTES_LIMIT)
