"""A bundle's folder on a web server, read with the standard library alone.

Bounded in everything: time of each network step, number of redirects, size of the manifest, size of each file.
Redirects stay on http(s) and never go from https down to http. Proxies are the environment's (`https_proxy`).
"""

from __future__ import annotations

import http.client
import io
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import IO, BinaryIO, cast

from registry.bundle import MANIFEST_BYTES_LIMIT, MANIFEST_NAME, Manifest
from targets.errors import BundleError, FetchError

TIMEOUT_SECONDS = 30.0
_HEADERS = {"User-Agent": "phipack", "Accept-Encoding": "identity"}


@dataclass(frozen=True)
class HttpSource:
    """A folder's URL, split, and the manifest read from it. `open_url` makes it."""

    base: urllib.parse.SplitResult
    manifest: Manifest

    def open_file(self, path: str, size: int) -> BinaryIO:
        """Request one file. Raises `FetchError` where it is refused or announces another size."""
        return _request(self.place_of(path), size, exact=True)

    def place_of(self, path: str) -> str:
        """The file's URL: the folder's query, such as a signature, is kept."""
        return _url_of(self.base, path)


def open_url(url: str) -> HttpSource:
    """Read the manifest of the bundle's folder at `url` (its `manifest.json` may be named too). Raises `FetchError`."""
    try:
        base = urllib.parse.urlsplit(url)
        host, password = base.hostname, base.password or base.username
    except ValueError as error:
        raise FetchError(f"{url!r} is not a URL: {error}", fix="give the URL of a bundle's folder") from error
    if base.scheme not in ("http", "https") or not host:
        raise FetchError(f"{url!r} is not an http(s) URL", fix="give the http(s) URL of a bundle's folder")
    if password:
        raise FetchError(f"the URL of {host} has a password in it", fix="give a URL without; passwords end up in logs")
    base = base._replace(path=base.path.removesuffix(MANIFEST_NAME).rstrip("/"), fragment="")
    place = _url_of(base, MANIFEST_NAME)
    with _request(place, MANIFEST_BYTES_LIMIT, exact=False) as stream:
        try:
            raw = stream.read()
        except OSError as error:
            raise FetchError(f"{place}: reading broke off: {error}", fix="try again") from error
    try:
        return HttpSource(base, Manifest.parse(raw, source=place))
    except BundleError as error:
        raise FetchError(error.problem, fix="give the URL of a bundle's folder, one with a manifest.json") from error


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects to http(s) only, five at most, never from https to http."""

    max_redirections = 5

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        scheme = urllib.parse.urlsplit(newurl).scheme
        if scheme not in ("http", "https") or (req.type == "https" and scheme == "http"):
            fp.close()
            raise FetchError(
                f"{req.full_url} redirects to {newurl}", fix="give the https URL that it is to be had from"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Bounded(io.RawIOBase):
    """A response that gives at most one byte more than it should have, and whose every failure is an OSError."""

    def __init__(self, response: http.client.HTTPResponse, limit: int) -> None:
        self._response = response
        self._left = limit + 1

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        wanted = self._left if size < 0 else min(size, self._left)
        pieces = []
        while wanted:
            try:
                piece = self._response.read(wanted)
            except http.client.HTTPException as error:
                raise OSError(str(error) or type(error).__name__) from error
            if not piece:
                break
            pieces.append(piece)
            wanted -= len(piece)
            self._left -= len(piece)
        return b"".join(pieces)

    def close(self) -> None:
        self._response.close()
        super().close()


def _request(url: str, limit: int, *, exact: bool) -> BinaryIO:
    request = urllib.request.Request(url, headers=_HEADERS)  # noqa: S310 - open_url lets http(s) pass alone
    try:
        response: http.client.HTTPResponse = _opener().open(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        raise FetchError(f"{url}: the server answers {error.code} {error.reason}", fix=_fix_of(error.code)) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise FetchError(f"{url} can't be reached: {reason}", fix="check the URL, the network and the proxy") from error
    announced = response.headers.get("Content-Length", "")
    if announced.isdigit() and (int(announced) > limit or (exact and int(announced) != limit)):
        response.close()
        expected = f"the manifest says {limit}" if exact else f"the limit is {limit}"
        raise FetchError(
            f"{url}: the server announces {announced} bytes; {expected}", fix="the bundle there was changed"
        )
    return cast("BinaryIO", _Bounded(response, limit))


def _opener() -> urllib.request.OpenerDirector:
    """Give an opener that knows http and https, and none of urllib's other schemes (file, ftp, data)."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.UnknownHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPErrorProcessor,
        _Redirects,
    ):
        opener.add_handler(handler())
    return opener


def _url_of(base: urllib.parse.SplitResult, path: str) -> str:
    return urllib.parse.urlunsplit(base._replace(path=f"{base.path}/{urllib.parse.quote(path)}"))


def _fix_of(code: int) -> str:
    if code in (401, 403):
        return "ask for access, or for a URL that is signed anew"
    if code >= 500:
        return "the server fails: try again later"
    return "check the URL: it is to be a bundle's folder, one with a manifest.json"
