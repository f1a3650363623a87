"""HTTP GET as a fetch needs it, with the standard library alone: connections kept alive, redirects, proxies, patience.

Bounded in everything: time of each network step, number of redirects and of tries, length of each wait. Redirects stay
on http(s) and never go from https down to http. Proxies are the environment's (`https_proxy`). What may pass is a
`TemporaryError`; `persist` tries again.
"""

from __future__ import annotations

import email.utils
import http.client
import random
import socket
import ssl
import threading
import time
import urllib.parse
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self, TypeVar

from targets.errors import FetchError

TIMEOUT_SECONDS = 30.0
WAITS_SECONDS = (0.5, 1.0, 2.0, 4.0)  # before each further try
LONGEST_WAIT_SECONDS = 60.0  # however long a server asks us to stay away
_REDIRECTS_LIMIT = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_TEMPORARY = (408, 425, 429, 500, 502, 503, 504)
_HEADERS = {"User-Agent": "phipack", "Accept-Encoding": "identity"}
_PIECE = 1 << 20
_AGAIN = "run the same command again: what was received whole is kept"

Result = TypeVar("Result")
_Host = tuple[str, str, int | None]


class TemporaryError(FetchError):
    """A request failed in a way that may pass. `wait_seconds`: how long the server asks us to wait."""

    def __init__(self, problem: str, *, fix: str = _AGAIN, wait_seconds: float = 0.0) -> None:
        super().__init__(problem, fix=fix)
        self.wait_seconds = wait_seconds


class RefusedError(FetchError):
    """The server refuses: `status` is 4xx, or one of 5xx that does not pass."""

    def __init__(self, problem: str, *, fix: str, status: int) -> None:
        super().__init__(problem, fix=fix)
        self.status = status


class Answer:
    """A response whose body is still to be read. Closing it gives back its connection, where the body was read."""

    def __init__(self, web: Web, place: str, host: _Host, connection: http.client.HTTPConnection) -> None:
        self._web, self._host, self._connection = web, host, connection
        self._response = connection.getresponse()
        self.place = place
        self.status, self.reason, self.headers = self._response.status, self._response.reason, self._response.headers

    @property
    def body_bytes(self) -> int | None:
        """The body's length, where the server announces it."""
        announced = self.headers.get("Content-Length", "")
        return int(announced) if announced.isdigit() else None

    def read_into(self, view: memoryview) -> int:
        """Read some bytes; 0 at the body's end, or where it was cut. Raises `TemporaryError`."""
        try:
            count = self._response.readinto(view[:_PIECE])
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._web.refuse_when_stopped()
            raise TemporaryError(f"{self.place}: reading broke off: {error or type(error).__name__}") from error
        self._web.count(count)
        return count

    def close(self) -> None:
        """Be done with it."""
        whole = self._response.isclosed() and not self._response.will_close
        self._response.close()
        self._web.give_back(self._host, self._connection, reusable=whole)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Web:
    """Connections that are kept alive, for any number of threads. `received_bytes`: of all bodies."""

    def __init__(self) -> None:
        self.received_bytes = 0
        self.stopped = threading.Event()
        self._lock = threading.Lock()
        self._idle: list[tuple[_Host, http.client.HTTPConnection]] = []
        self._busy: set[http.client.HTTPConnection] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def get(self, url: str, headers: Mapping[str, str] | None = None) -> Answer:
        """Ask for `url`, redirects followed. The answer's status is below 400.

        Raises:
            TemporaryError: no connection, or a status that may pass.
            FetchError: the server refuses, or redirects in a circle or to what is not http(s).
        """
        place = url
        for _ in range(_REDIRECTS_LIMIT + 1):
            answer = self._asked(place, headers or {})
            if answer.status not in _REDIRECTS:
                break
            answer.close()
            place = _redirected(place, answer.headers.get("Location", ""))
        if answer.status < 300:
            return answer
        answer.close()
        problem = f"{url}: the server answers {answer.status} {answer.reason}"
        if answer.status in _TEMPORARY:
            wait = _wait_of(answer.headers.get("Retry-After", ""))
            raise TemporaryError(problem, fix="the server fails: try again later", wait_seconds=wait)
        raise RefusedError(problem, fix=_fix_of(answer.status), status=answer.status)

    def give_back(self, host: _Host, connection: http.client.HTTPConnection, *, reusable: bool) -> None:
        """Keep a connection for the next request, or close it."""
        with self._lock:
            self._busy.discard(connection)
            if reusable and not self.stopped.is_set():
                self._idle.append((host, connection))
                return
        connection.close()

    def count(self, received: int) -> None:
        """Count bytes of a body."""
        with self._lock:
            self.received_bytes += received

    def close(self) -> None:
        """End all requests, those of other threads too; wake who waits."""
        self.stopped.set()
        with self._lock:
            connections = [*self._busy, *(connection for _, connection in self._idle)]
            self._idle.clear()
        for connection in connections:
            if (opened := connection.sock) is not None:
                try:
                    opened.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue  # it is gone already
        for connection in connections:
            if connection not in self._busy:
                connection.close()

    def refuse_when_stopped(self) -> None:
        """Raise `FetchError` after `close`: nothing is tried again then."""
        if self.stopped.is_set():
            raise FetchError("the download was stopped", fix=_AGAIN)

    def _asked(self, url: str, headers: Mapping[str, str]) -> Answer:
        parts = urllib.parse.urlsplit(url)
        host = (parts.scheme, parts.hostname or "", parts.port)
        target = urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, ""))
        while True:
            self.refuse_when_stopped()
            connection, kept, via = self._connection(host)
            try:
                absolute = f"{parts.scheme}://{parts.netloc}{target}"
                connection.request("GET", absolute if via else target, headers={**_HEADERS, **via, **headers})
                return Answer(self, url, host, connection)
            except (OSError, http.client.HTTPException, ValueError) as error:
                self.give_back(host, connection, reusable=False)
                self.refuse_when_stopped()
                # A server may close a connection that was idle, without a word.
                if kept and isinstance(error, ConnectionError | http.client.RemoteDisconnected):
                    continue
                problem = f"{url} can't be reached: {error or type(error).__name__}"
                if _is_lasting(error):
                    raise FetchError(problem, fix="check the URL, the network and the proxy") from error
                raise TemporaryError(problem, fix="check the URL, the network and the proxy") from error

    def _connection(self, host: _Host) -> tuple[http.client.HTTPConnection, bool, dict[str, str]]:
        """Give a connection, whether it was used before, and the headers for the proxy that wants the whole URL."""
        proxy = None if urllib.request.proxy_bypass(host[1]) else urllib.request.getproxies().get(host[0])
        via = _proxy_headers(proxy) if proxy and host[0] == "http" else {}
        with self._lock:
            for index, (known, connection) in enumerate(self._idle):
                if known == host:
                    del self._idle[index]
                    self._busy.add(connection)
                    return connection, True, via
            connection = _new_connection(host, proxy)
            self._busy.add(connection)
        return connection, False, via


def persist(web: Web, attempt: Callable[[], Result]) -> Result:
    """Give what `attempt` gives; try again after each `TemporaryError`, with waits that grow. Raises the last one."""
    for wait in WAITS_SECONDS:
        try:
            return attempt()
        except TemporaryError as error:
            asked = min(error.wait_seconds, LONGEST_WAIT_SECONDS)
            # Not in step with the other clients of a server that has just come back.
            if web.stopped.wait(max(asked, wait * random.uniform(0.75, 1.25))):  # noqa: S311
                raise
    return attempt()


def read_small(web: Web, url: str, limit: int) -> bytes:
    """Read a document of at most `limit` bytes. Raises `FetchError` where it is larger, or can't be had."""

    def attempt() -> bytes:
        with web.get(url) as answer:
            if (answer.body_bytes or 0) > limit:
                raise FetchError(
                    f"{url}: the server announces {answer.body_bytes} bytes; the limit is {limit}",
                    fix="check the URL: it is to be a bundle's folder, one with a manifest.json",
                )
            content = bytearray()
            room = memoryview(bytearray(min(limit + 1, _PIECE)))
            while len(content) <= limit and (count := answer.read_into(room[: limit + 1 - len(content)])):
                content += room[:count]
            if answer.body_bytes is not None and len(content) != answer.body_bytes:
                raise TemporaryError(f"{url}: reading broke off after {len(content)} of {answer.body_bytes} bytes")
            return bytes(content)

    return persist(web, attempt)


def _new_connection(host: _Host, proxy: str | None) -> http.client.HTTPConnection:
    scheme, name, port = host
    reached: tuple[str, int | None] = (name, port)
    if proxy:
        parts = urllib.parse.urlsplit(proxy if "://" in proxy else f"//{proxy}")
        reached = (parts.hostname or "", parts.port)
    if scheme == "http":
        return http.client.HTTPConnection(*reached, timeout=TIMEOUT_SECONDS)
    secured = http.client.HTTPSConnection(*reached, timeout=TIMEOUT_SECONDS, context=ssl.create_default_context())
    if proxy:
        secured.set_tunnel(name, port, headers=_proxy_headers(proxy))
    return secured


def _proxy_headers(proxy: str) -> dict[str, str]:
    parts = urllib.parse.urlsplit(proxy if "://" in proxy else f"//{proxy}")
    headers = {"Proxy-Connection": "keep-alive"}
    if parts.username:
        secret = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
        headers["Proxy-Authorization"] = "Basic " + b64encode(secret.encode()).decode()
    return headers


def _redirected(place: str, location: str) -> str:
    following = urllib.parse.urljoin(place, location)
    scheme = urllib.parse.urlsplit(following).scheme
    if not location or scheme not in ("http", "https") or (place.startswith("https:") and scheme == "http"):
        raise FetchError(
            f"{place} redirects to {following if location else 'nowhere'}",
            fix="give the https URL that it is to be had from",
        )
    return following


def _is_lasting(error: Exception) -> bool:
    """True for what no waiting mends: a name that does not exist, a certificate that is wrong, a URL that is none."""
    if isinstance(error, socket.gaierror):
        return error.errno != socket.EAI_AGAIN
    return isinstance(error, ssl.SSLCertVerificationError | http.client.InvalidURL | UnicodeError)


def _wait_of(retry_after: str) -> float:
    """Seconds of a Retry-After header: a number, or a date (RFC 9110, 10.2.3). 0 where it says neither."""
    if retry_after.isdigit():
        return float(retry_after)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (TypeError, ValueError):
        return 0.0


def _fix_of(status: int) -> str:
    if status in (401, 403):
        return "ask for access, or for a URL that is signed anew"
    if status >= 500:
        return "the server fails: try again later"
    return "check the URL: it is to be a bundle's folder, one with a manifest.json"
