"""HTTP GET requests as a download needs them, over urllib3: redirects, retries, and errors that name their cause.

Everything is bounded: the time of each network step, the least rate of an answer (`pace.py`), the time of a document
with all its tries, the number of redirects and of tries, the length of each wait.
Redirects stay on http(s) and never lead from https down to http; no credentials are sent along. An error that may pass
is a `TemporaryError`, and `with_retries` tries again. Connections and proxies are in `connections.py`.
"""

from __future__ import annotations

import http.client
import random
import re
import socket
import ssl
import threading
import time
import urllib.parse
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Self, TypeVar

from urllib3 import BaseHTTPResponse
from urllib3.exceptions import HTTPError
from urllib3.util import Timeout

from registry.transfer.connections import ConnectionPools
from registry.transfer.header_values import http_date, whole_number
from registry.transfer.http_address import http_address_problem
from registry.transfer.network_settings import (
    CERTIFICATE_FIX,
    CONNECT_SECONDS,
    RETRY_WAITS_SECONDS,
    SILENCE_SECONDS,
    proxy_for,
)
from registry.transfer.pace import Pace
from targets.errors import FetchError, FetchUnreachableError, SetupError
from targets.printable import one_line
from targets.secrets import shown, shown_without_query

LONGEST_WAIT_SECONDS = 60.0  # however long a server asks us to wait
DOCUMENT_SECONDS = 300.0  # of a document, all tries together: others may be waiting for what it says
_REDIRECTS_LIMIT = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_TEMPORARY = (408, 425, 429)  # and all of 5xx
_HEADERS = {"User-Agent": "phipack", "Accept-Encoding": "identity"}
_PIECE = 1 << 18
_GZIP = b"\x1f\x8b"
_REFUSAL_BYTES = 4096  # of a refusal's body, which may say why
_SAID_LENGTH = 200
_RUN_AGAIN = "run the same command again: what was received so far is kept"
_CHECK_NETWORK = "check the URL and this machine's network and proxy settings, then run the same command again"

Result = TypeVar("Result")


class TemporaryError(FetchUnreachableError):
    """A request failed in a way that may pass. `wait_seconds`: how long the server asks us to wait."""

    def __init__(self, problem: str, *, fix: str = _RUN_AGAIN, wait_seconds: float = 0.0) -> None:
        super().__init__(problem, fix=fix)
        self.wait_seconds = wait_seconds


_CHECK_URL = "check the URL: it must be a bundle's folder, with a manifest.json; for a catalog's, add --of or --device"


class RefusedError(FetchError):
    """The server refuses the request: `status` is 4xx, or a redirect that leads nowhere.

    `code`, `said`: what S3 and servers like it answer, such as `ExpiredToken` and a sentence; empty where they do not.
    """

    def __init__(self, problem: str, *, fix: str, status: int, code: str = "", said: str = "") -> None:
        super().__init__(problem, fix=fix)
        self.status, self.code, self.said = status, code, said


class Response:
    """A response whose body is still to be read. `place`: its URL, as messages may show it.

    Close it: its connection is kept where the whole body was read.
    """

    def __init__(self, client: HttpClient, place: str, received: BaseHTTPResponse) -> None:
        self._client, self._received = client, received
        self._pace: Pace | None = getattr(received.connection, "pace", None)
        self.place = place
        self.status, self.reason, self.headers = received.status, received.reason, received.headers

    @property
    def body_bytes(self) -> int | None:
        """The body's length, where the server announces it."""
        return whole_number(self.headers.get("Content-Length"))

    def read_into(self, view: memoryview) -> int:
        """Read some bytes into `view` and return how many; 0 at the body's end, or where it was cut.

        Raises:
            TemporaryError: the connection broke, or nothing came in time.
        """
        try:
            piece = self._received.read1(min(len(view), _PIECE), decode_content=False) or b""
        except (HTTPError, OSError, http.client.HTTPException, ValueError) as error:
            self._client.raise_if_cancelled()
            raise TemporaryError(f"{self.place}: reading broke off: {_description(_cause(error))}") from error
        if not piece:
            self._client.raise_if_cancelled()  # a connection that is shut down ends like a body
        view[: len(piece)] = piece
        if self._pace is not None:
            self._pace.delivered(len(piece))
        self._client.count(len(piece))
        return len(piece)

    def close(self) -> None:
        """Close the connection, or leave it for the next request where nothing of this one is left in it."""
        if self.headers.get("Content-Length") == "0":
            self._received.drain_conn()
        self._received.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class HttpClient:
    """GET requests over connections that are kept alive, for any number of threads. Leaving its block cancels it.

    `received_bytes`: of all bodies so far.
    """

    def __init__(self) -> None:
        self.received_bytes = 0
        self._pools = ConnectionPools()
        self._counting = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    def get(self, url: str, headers: Mapping[str, str] | None = None) -> Response:
        """Request `url`, follow redirects, and return a response whose status is 2xx.

        Raises:
            TemporaryError: no connection, or a status that may pass.
            FetchUnreachableError: the host's name does not exist.
            RefusedError: the server refuses, or redirects too often.
            FetchError: the certificate is not valid, a redirect leads to what is not http(s), or `cancel` was called.
        """
        location = place = url
        for _ in range(_REDIRECTS_LIMIT + 1):
            response = self._request(location, place, {**_HEADERS, **(headers or {})})
            if response.status not in _REDIRECTS:
                break
            response.close()
            location = redirected(location, response.headers.get("Location", ""))
            place = shown_without_query(location)
        if 200 <= response.status < 300:
            return response
        code, said = _said(response)
        response.close()
        answer = f"{response.status} {_cleaned(response.reason or '')}".rstrip()
        problem = ": ".join(filter(None, (f"{url}: the server answers {answer}", code, said)))
        if response.status >= 500 or response.status in _TEMPORARY:
            wait = retry_after_seconds(response.headers.get("Retry-After", ""))
            raise TemporaryError(problem, fix="run the same command again later", wait_seconds=wait)
        raise RefusedError(problem, fix=_fix_of(response.status), status=response.status, code=code, said=said)

    def cancel(self) -> None:
        """End all requests at once, those of other threads too, and all waits. Nothing can be requested after it."""
        self._pools.cancel()

    def wait(self, seconds: float) -> bool:
        """Wait, and return True as soon as `cancel` is called."""
        return self._pools.cancelled.wait(seconds)

    def raise_if_cancelled(self) -> None:
        """Raise `FetchError` after `cancel`."""
        if self._pools.cancelled.is_set():
            raise FetchError("the download was cancelled", fix=_RUN_AGAIN)

    def count(self, received: int) -> None:
        """Count bytes of a body."""
        with self._counting:
            self.received_bytes += received

    def _request(self, url: str, place: str, headers: Mapping[str, str]) -> Response:
        self.raise_if_cancelled()
        _require_address(url, place)
        try:
            proxy = proxy_for(url)
            manager = self._pools.manager_for(url, proxy)
        except SetupError as error:
            raise FetchError(f"{place} can't be reached: {error.problem}", fix=error.fix) from error
        try:
            received = manager.urlopen(
                "GET",
                url,
                headers=dict(headers),
                timeout=Timeout(connect=CONNECT_SECONDS, read=SILENCE_SECONDS),
                retries=False,
                redirect=False,
                preload_content=False,
                decode_content=False,
                enforce_content_length=False,  # whoever reads knows how many bytes there must be
            )
        except (HTTPError, OSError, http.client.HTTPException, ValueError) as error:
            self.raise_if_cancelled()
            raise _unreachable(place, proxy, _cause(error)) from error
        return Response(self, place, received)


def with_retries(client: HttpClient, attempt: Callable[[], Result]) -> Result:
    """Return what `attempt` returns; after each `TemporaryError` try again, with waits that grow. Raises the last."""
    for wait in RETRY_WAITS_SECONDS:
        try:
            return attempt()
        except TemporaryError as error:
            asked = min(error.wait_seconds, LONGEST_WAIT_SECONDS)
            # Not in step with the other clients of a server that has just come back.
            if client.wait(max(asked, wait * random.uniform(0.75, 1.25))):  # noqa: S311
                raise
    return attempt()


def read_document(client: HttpClient, url: str, limit: int) -> bytes:
    """Read a document of at most `limit` bytes. Raises `FetchError` where it is larger, or can't be downloaded."""
    started = time.monotonic()

    def require_time() -> None:
        if time.monotonic() - started > DOCUMENT_SECONDS:
            raise FetchUnreachableError(
                f"{url}: it did not come within {DOCUMENT_SECONDS:.0f} s, all tries together",
                fix="run the same command again later, or over a faster network",
            )

    def attempt() -> bytes:
        require_time()
        with client.get(url) as response:
            announced = response.body_bytes
            if (announced or 0) > limit:
                raise FetchError(
                    f"{url}: the server announces {announced} bytes; the limit is {limit}",
                    fix=_CHECK_URL,
                )
            content = bytearray()
            room = memoryview(bytearray(min(limit + 1, _PIECE)))
            while len(content) <= limit and (count := response.read_into(room[: limit + 1 - len(content)])):
                content += room[:count]
                require_time()
            if announced is not None and len(content) != announced:
                raise TemporaryError(f"{url}: reading broke off after {len(content)} of {announced} bytes")
            _require_document(url, response, bytes(content))
            return bytes(content)

    return with_retries(client, attempt)


def _require_document(url: str, response: Response, content: bytes) -> None:
    """Raise `FetchError` where a server sends a web page or compressed bytes in place of one of our documents."""
    where = "" if response.place == url else f", after it redirected to {response.place}"
    if content.lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
        raise FetchError(
            f"{url}: the server sends a web page, not the file{where}",
            fix="check the URL; if the page is a login, ask for a URL that needs none, or a signed one",
        )
    if content[:2] == _GZIP:
        raise FetchError(
            f"{url}: the server sends the file compressed (gzip), though it was asked not to{where}",
            fix="have the server store and send the file as it is, without Content-Encoding",
        )


def redirected(url: str, location: str) -> str:
    """Return where a redirect leads. Raises `FetchError` where that is not http(s), or http from https."""
    try:
        following = urllib.parse.urljoin(url, location)
        scheme = urllib.parse.urlsplit(following).scheme
    except ValueError:  # brackets that hold no IPv6 address
        following, scheme = location, ""
    if not location or scheme not in ("http", "https") or (url.startswith("https:") and scheme == "http"):
        where = one_line(shown_without_query(following)) if location else "nowhere"
        raise FetchError(
            f"{shown_without_query(url)} redirects to {where}",
            fix="use the https URL under which the server has the file itself",
        )
    return following


def retry_after_seconds(value: str) -> float:
    """Return the seconds of a Retry-After header, a number or a date (RFC 9110, 10.2.3); 0 where it is neither."""
    if (seconds := whole_number(value)) is not None:
        return float(seconds)
    date = http_date(value)
    return 0.0 if date is None else max(0.0, date.timestamp() - time.time())


def _said(response: Response) -> tuple[str, str]:
    """Return the code and the sentence of a refusal's body, where it is S3's XML: `ExpiredToken`, `The token …`."""
    view = memoryview(bytearray(_REFUSAL_BYTES))
    size = 0
    with suppress(FetchError):
        while size < len(view) and (count := response.read_into(view[size:])):
            size += count
    text = bytes(view[:size]).decode("utf-8", "replace")
    code, message = (re.search(rf"<{name}>([^<]*)</{name}>", text) for name in ("Code", "Message"))
    return _cleaned(code[1]) if code else "", _cleaned(message[1]) if message else ""


def _cleaned(text: str) -> str:
    """Return a stranger's text for a terminal: one line of printable letters, not too long."""
    return one_line(text).strip()[:_SAID_LENGTH]


def _require_address(url: str, place: str) -> None:
    if (problem := http_address_problem(url)) is not None:
        raise FetchError(problem.replace(shown(url), shown(place)), fix="use a URL such as https://HOST/FOLDER")


def _unreachable(place: str, proxy: str | None, cause: BaseException) -> FetchError:
    via = f" through the proxy {proxy.rpartition('@')[2]}" if proxy else ""
    problem = f"{place} can't be reached{via}: {_description(cause)}"
    if isinstance(cause, ssl.SSLCertVerificationError):
        return FetchError(problem, fix=CERTIFICATE_FIX)
    if isinstance(cause, socket.gaierror) and cause.errno != socket.EAI_AGAIN:
        return FetchUnreachableError(problem, fix=_CHECK_NETWORK)
    if isinstance(cause, ValueError):  # urllib3's for a URL or a proxy of a form that it does not know
        return FetchError(problem, fix="check the URL, and the proxy in the environment's http_proxy and https_proxy")
    return TemporaryError(problem, fix=_CHECK_NETWORK)


def _cause(error: BaseException) -> BaseException:
    """Return the innermost of the errors that urllib3 has wrapped in one another: the system's own."""
    inner = error.__cause__ or next((one for one in error.args if isinstance(one, BaseException)), None)
    return error if inner is None else _cause(inner)


def _description(cause: BaseException) -> str:
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not valid: {cause.verify_message}"
    if isinstance(cause, socket.gaierror):
        return f"its name can't be resolved: {cause.strerror}"
    if isinstance(cause, TimeoutError):
        return "timed out"
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return str(cause) or type(cause).__name__


def _fix_of(status: int) -> str:
    if status in (401, 403):
        return "ask the publisher for access; if the URL is signed, ask for a new one"
    if status == 400:
        return "check the URL, all of it: a signed one is refused where a part of it is missing or has expired"
    if status == 410:
        return "it was removed there for good: ask its publisher for the new address"
    if status == 407:
        return "put the proxy's name and password into https_proxy: http://NAME:PASSWORD@HOST:PORT"
    return _CHECK_URL
