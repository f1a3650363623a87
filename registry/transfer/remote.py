"""A bundle's folder on a web server: its manifest, and the URLs of its files.

A `Remote` is all that a download needs to know of a bundle on the web; a bundle of a catalog is one, too.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from registry.bundle.manifest import MANIFEST_BYTES_LIMIT, MANIFEST_NAME, FileEntry, Manifest
from registry.transfer.http import HttpClient, read_document
from registry.transfer.http_address import host_of, http_address_problem
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
        """The file to download."""
        return FileEntry(path="delta", bytes=self.bytes, sha256=self.blob.removeprefix("sha256:"))


class Remote(Protocol):
    """A bundle on the web."""

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest."""
        ...

    @property
    def manifest_url(self) -> str:
        """Where the manifest is, for messages."""
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
    """A folder's URL, split, and the manifest read from it. `open_url` returns one."""

    base: urllib.parse.SplitResult
    manifest: Manifest
    deltas: tuple[RemoteDelta, ...] = ()  # a plain folder has none

    @property
    def manifest_url(self) -> str:
        """The manifest's URL."""
        return _url_of(self.base, MANIFEST_NAME)

    def url_of(self, entry: FileEntry) -> str:
        """The file's URL: the folder's query, such as a signature, is kept."""
        return _url_of(self.base, entry.path)


def open_url(url: str, client: HttpClient) -> HttpSource:
    """Read the manifest of the bundle's folder at `url`; the URL of its `manifest.json` is accepted, too.

    Raises:
        FetchError: the URL is malformed, or there is no manifest.
    """
    base = split_url(url)
    base = base._replace(path=base.path.removesuffix(MANIFEST_NAME).rstrip("/"), fragment="")
    manifest_url = _url_of(base, MANIFEST_NAME)
    raw = read_document(client, manifest_url, MANIFEST_BYTES_LIMIT)
    try:
        return HttpSource(base, Manifest.parse(raw, source=manifest_url))
    except BundleError as error:
        raise FetchError(
            error.problem, fix="check the URL: it must be a bundle's folder, one with a manifest.json"
        ) from error


def split_url(url: str) -> urllib.parse.SplitResult:
    """Split an http(s) URL. Raises `FetchError` where it is not one, or has a password in it."""
    if (problem := http_address_problem(url)) is not None:
        raise FetchError(problem, fix="use a URL such as https://HOST/FOLDER")
    parts = urllib.parse.urlsplit(url)
    if "@" in parts.netloc:
        raise FetchError(
            f"the URL of {host_of(url)} has a password in it", fix="use one without: passwords end up in logs"
        )
    return parts


def _url_of(base: urllib.parse.SplitResult, path: str) -> str:
    return urllib.parse.urlunsplit(base._replace(path=f"{base.path}/{urllib.parse.quote(path)}"))
