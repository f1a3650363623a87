"""Which store a text names, and which bundle in it."""

from __future__ import annotations

import urllib.parse
from pathlib import Path

from registry.store.folder import FolderStore
from registry.store.protocol import URI_PREFIX, Store, is_digest
from targets.errors import StoreError

DEFAULT_STORE = Path(".phipack/store")


def open_store(location: str | Path | None = None) -> Store:
    """Open the store at a folder, `file://` or `s3://` URI; `.phipack/store` by default. Raises `StoreError`."""
    if location is None:
        return FolderStore(DEFAULT_STORE)
    text = str(location).removeprefix(URI_PREFIX)
    scheme, separator, rest = text.partition("://")
    if not separator:
        return FolderStore(Path(text))
    if scheme == "file" and rest.startswith("/"):
        return FolderStore(Path(urllib.parse.unquote(rest)))
    if scheme == "s3" and (bucket := rest.partition("/")[0]):
        from registry.store.s3 import S3Store

        return S3Store(bucket, rest.partition("/")[2])
    raise StoreError(
        f"{text!r}: no store of the kind {scheme!r}",
        fix="give a folder, file:///its/absolute/path or s3://BUCKET/PREFIX",
    )


def parse_bundle_uri(uri: str) -> tuple[str, str]:
    """Split `phipack-file:///srv/store/sha256:…` into the store's URI and the bundle's digest. Raises `StoreError`."""
    store_uri, _, digest = uri.rpartition("/")
    if not uri.startswith(URI_PREFIX) or not store_uri or not is_digest(digest):
        raise StoreError(f"{uri!r} does not name a bundle in a store", fix="register the version with phipack")
    return store_uri.removeprefix(URI_PREFIX), digest
