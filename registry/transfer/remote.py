"""A bundle's folder on a web server: its manifest, and where its files are to be had.

A `Remote` is all that a fetch needs of a place on the web; a catalog that names files by digest is another one.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from registry.bundle.manifest import MANIFEST_BYTES_LIMIT, MANIFEST_NAME, FileEntry, Manifest
from registry.transfer.http import Web, read_small
from targets.errors import BundleError, FetchError


@dataclass(frozen=True)
class RemoteDelta:
    """A delta file (`delta.py`) on the web that leads to a bundle from bundle `from_`. Both digests: `sha256:…`."""

    from_: str
    blob: str
    bytes: int
    url: str

    @property
    def file(self) -> FileEntry:
        """What is to be downloaded."""
        return FileEntry(path="delta", bytes=self.bytes, sha256=self.blob.removeprefix("sha256:"))


class Remote(Protocol):
    """A bundle on the web."""

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest."""
        ...

    @property
    def place(self) -> str:
        """Where the manifest lies, for messages."""
        ...

    @property
    def deltas(self) -> Sequence[RemoteDelta]:
        """Delta files that lead to it."""
        ...

    def url_of(self, entry: FileEntry) -> str:
        """URL of one of its files."""
        ...


@dataclass(frozen=True)
class HttpSource:
    """A folder's URL, split, and the manifest read from it. `open_url` makes it."""

    base: urllib.parse.SplitResult
    manifest: Manifest
    deltas: tuple[RemoteDelta, ...] = ()  # a folder has none

    @property
    def place(self) -> str:
        """The manifest's URL."""
        return _url_of(self.base, MANIFEST_NAME)

    def url_of(self, entry: FileEntry) -> str:
        """The file's URL: the folder's query, such as a signature, is kept."""
        return _url_of(self.base, entry.path)


def open_url(url: str, web: Web) -> HttpSource:
    """Read the manifest of the bundle's folder at `url` (its `manifest.json` may be named too). Raises `FetchError`."""
    try:
        base = urllib.parse.urlsplit(url)
        host, password, _ = base.hostname, base.password or base.username, base.port
    except ValueError as error:
        raise FetchError(f"{url!r} is not a URL: {error}", fix="give the URL of a bundle's folder") from error
    if base.scheme not in ("http", "https") or not host:
        raise FetchError(f"{url!r} is not an http(s) URL", fix="give the http(s) URL of a bundle's folder")
    if password:
        raise FetchError(f"the URL of {host} has a password in it", fix="give a URL without; passwords end up in logs")
    base = base._replace(path=base.path.removesuffix(MANIFEST_NAME).rstrip("/"), fragment="")
    place = _url_of(base, MANIFEST_NAME)
    raw = read_small(web, place, MANIFEST_BYTES_LIMIT)
    try:
        return HttpSource(base, Manifest.parse(raw, source=place))
    except BundleError as error:
        raise FetchError(error.problem, fix="give the URL of a bundle's folder, one with a manifest.json") from error


def _url_of(base: urllib.parse.SplitResult, path: str) -> str:
    return urllib.parse.urlunsplit(base._replace(path=f"{base.path}/{urllib.parse.quote(path)}"))
