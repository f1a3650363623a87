"""A catalog as a client sees it, right after it was written: opened from the first root on, with the client's own code.

A publication is reported only when this has succeeded: what no client accepts is not published, whatever was written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import FetcherInterface

from registry.catalog.client import refreshed_targets
from registry.catalog.documents import ChannelDocument, ReleaseDocument, hashed_path, is_document, parse_document
from registry.catalog.signing import KeyFolder
from registry.files.temporary import temporary_folder
from registry.store.protocol import Store
from targets.errors import FetchError, PublicationError

_BASE = "https://catalog.invalid"  # never asked: documents come from the store


class _StoreFetcher(FetcherInterface):
    """Reads metadata from a store, as a web server would serve it."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def _fetch(self, url: str) -> Iterator[bytes]:
        found = self._store.read_document(url.removeprefix(f"{_BASE}/"))
        if found is None:
            raise DownloadHTTPError(f"{url} is missing", 404)
        yield found.content


def check_published(store: Store, keys: KeyFolder, paths: Iterable[str]) -> None:
    """Open the catalog in a store as a client that trusts the first root, and read the documents at `paths`.

    Raises:
        PublicationError: a client refuses it; why is in the message.
        StoreError: the store can't be read.
    """
    with temporary_folder("phipack-client") as folder:
        first = keys.path / f"{keys.roots[0].signed.version}.root.json"
        try:
            files = refreshed_targets(
                _BASE, _StoreFetcher(store), folder / "metadata", first, wait=lambda _seconds: False
            )
        except FetchError as error:
            problem = error.problem.replace(f"the catalog at {_BASE}", f"the catalog in {store.uri}")
            raise PublicationError(f"it was written, and no client accepts it: {problem}", fix=error.fix) from error
    for path in paths:
        name = "targets/" + hashed_path(path, files[path])
        found = store.read_document(name)
        if found is None or not is_document(files[path], found.content):
            raise PublicationError(
                f"{store.uri}/{name} was written, and is not there as it was signed", fix="publish again"
            )
        _parse(store, name, path, found.content)


def _parse(store: Store, name: str, path: str, content: bytes) -> None:
    kind = ChannelDocument if "/channels/" in path else ReleaseDocument
    try:
        parse_document(kind, content)
    except ValueError as error:
        raise PublicationError(
            f"{store.uri}/{name} was written, and no client can read it: {error}", fix="install a newer phipack"
        ) from error
