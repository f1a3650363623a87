"""HTTP requests: connections that are kept, proxies, redirects, retries, cancellation, and errors that name a cause."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from urllib3 import HTTPHeaderDict

from devtools.servers import FolderHandler, answering, on, serving
from registry.transfer import http as http_requests
from registry.transfer.http import HttpClient, RefusedError, TemporaryError, read_document, redirected, with_retries
from targets.errors import UNREACHABLE_EXIT_CODE, FetchError, FetchUnreachableError


@pytest.fixture(autouse=True)
def _local(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(http_requests, "RETRY_WAITS_SECONDS", (0.01, 0.01))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a").write_bytes(b"content")
    return tmp_path


class Counting(FolderHandler):
    """Counts connections; closes each after three requests, without a word."""

    connections = 0

    def setup(self) -> None:
        super().setup()
        Counting.connections += 1
        self.served = 0

    def serve(self) -> None:
        super().serve()
        self.served += 1
        if self.served == 3:
            self.close_connection = True


def test_a_connection_is_kept_and_replaced_when_the_server_closes_it(folder: Path) -> None:
    Counting.connections = 0
    with serving(folder, kind=Counting) as url, HttpClient() as client:
        for _ in range(9):
            assert read_document(client, f"{url}/a", 100) == b"content"
            time.sleep(0.01)
        assert client.received_bytes == 63
    assert Counting.connections == 3


class Redirecting(Counting):
    """Redirects everything but /a to it, on a connection that is kept."""

    def serve(self) -> None:
        if self.path == "/a":
            SimpleHTTPRequestHandler.do_GET(self)
            return
        self.send_response(307)
        self.send_header("Location", "/a")
        self.send_header("Content-Length", "0")
        self.end_headers()


def test_a_connection_is_kept_over_redirects_and_refusals_without_a_body(folder: Path) -> None:
    Counting.connections = 0
    with serving(folder, kind=Redirecting) as url, HttpClient() as client:
        for _ in range(3):
            assert read_document(client, f"{url}/b", 100) == b"content"
    assert Counting.connections == 1


@contextmanager
def serving_ipv6(folder: Path) -> Iterator[str]:
    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6

    with Server(("::1", 0), partial(FolderHandler, directory=str(folder), fault=None, asked=[])) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://[::1]:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def test_a_server_with_an_ipv6_address_is_read(folder: Path) -> None:
    with serving_ipv6(folder) as url, HttpClient() as client:
        assert read_document(client, f"{url}/a", 100) == b"content"


class Proxy(FolderHandler):
    """A proxy that has every site's files itself."""

    seen: tuple[str, str | None] = ("", None)

    def serve(self) -> None:
        Proxy.seen = (self.path, self.headers.get("Proxy-Authorization"))
        self.path = "/" + self.path.rsplit("/", 1)[1]
        super().serve()


@pytest.mark.parametrize("scheme", ["http://", ""])
def test_the_environments_proxy_is_used(folder: Path, monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    with serving(folder, kind=Proxy) as proxy, HttpClient() as client:
        monkeypatch.setenv("http_proxy", proxy.replace("http://", f"{scheme}me:p%40ss@"))
        assert read_document(client, "http://models.invalid/x/a", 100) == b"content"
        assert Proxy.seen == ("http://models.invalid/x/a", "Basic bWU6cEBzcw==")


@pytest.mark.parametrize("exempted", ["127.0.0.1", "*", "127.0.0.1:{port}"])
def test_hosts_of_no_proxy_are_reached_directly(folder: Path, monkeypatch: pytest.MonkeyPatch, exempted: str) -> None:
    monkeypatch.setenv("http_proxy", "http://me:secret@127.0.0.1:9")
    with serving(folder) as url, HttpClient() as client:
        with pytest.raises(
            FetchUnreachableError, match=r"through the proxy 127\.0\.0\.1:9: Connection refused"
        ) as caught:
            read_document(client, f"{url}/a", 100)
        assert "secret" not in str(caught.value)
        monkeypatch.setenv("no_proxy", exempted.format(port=url.rpartition(":")[2]))
        assert read_document(client, f"{url}/a", 100) == b"content"


def test_a_proxy_of_a_kind_that_is_not_known_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:9")
    with (
        HttpClient() as client,
        pytest.raises(FetchError, match=r"http_proxy names a SOCKS proxy, socks5://127\.0\.0\.1:9") as caught,
    ):
        read_document(client, "http://models.invalid/a", 100)
    assert not isinstance(caught.value, FetchUnreachableError)


def test_redirects_never_leave_https() -> None:
    assert redirected("https://a/x", "/y") == "https://a/y"
    assert redirected("http://a/x", "https://b/y?z") == "https://b/y?z"
    for location in ("http://a/y", "file:///etc/passwd", ""):
        with pytest.raises(FetchError, match="redirects to"):
            redirected("https://a/x", location)


# --- errors name their cause


def test_a_refused_connection_is_named(folder: Path) -> None:
    with HttpClient() as client, pytest.raises(TemporaryError, match="can't be reached: Connection refused") as caught:
        client.get("http://127.0.0.1:9/")
    assert caught.value.exit_code == UNREACHABLE_EXIT_CODE


def test_a_name_that_can_not_be_resolved_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Like any name below .invalid; the answer of this machine's resolver is not asked for."""
    tries = []

    def unknown(*_: object, **__: object) -> None:
        tries.append(1)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with HttpClient() as client, pytest.raises(FetchUnreachableError, match="can't be resolved: Name or") as caught:
        read_document(client, "http://models.invalid/a", 100)
    assert caught.value.exit_code == UNREACHABLE_EXIT_CODE
    assert len(tries) == 1


@pytest.mark.parametrize(
    ("status", "unreachable"), [(404, False), (403, False), (500, True), (501, True), (503, True), (429, True)]
)
def test_a_refusal_is_an_error_and_a_server_in_trouble_is_unreachable(
    folder: Path, status: int, unreachable: bool
) -> None:
    asked: list[str] = []
    fault = on("/a", answering(status, {"Content-Length": "0"}))
    with (
        serving(folder, fault, asked) as url,
        HttpClient() as client,
        pytest.raises(FetchError, match=f"answers {status}") as caught,
    ):
        read_document(client, f"{url}/a", 100)
    assert isinstance(caught.value, FetchUnreachableError) == unreachable
    assert isinstance(caught.value, RefusedError) != unreachable
    assert caught.value.exit_code == (UNREACHABLE_EXIT_CODE if unreachable else 1)
    assert len(asked) == (3 if unreachable else 1)


# --- waits


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("3", 3),
        ("", 0),
        ("soon", 0),
        (formatdate(0, usegmt=True), 0),
        ("-1", 0),
        ("²", 0),
        ("9" * 5000, 0),
        ("Mon, 01 Jan 2024 00:00:00 +99999999999999999999999", 0),
    ],
)
def test_retry_after_is_read(written: str, seconds: float) -> None:
    assert http_requests.retry_after_seconds(written) == seconds
    assert 50 < http_requests.retry_after_seconds(formatdate(time.time() + 60, usegmt=True)) <= 60


@pytest.mark.parametrize("announced", ["²", "9" * 5000, "-1", "five"])
def test_an_announced_length_that_is_none_counts_as_none(announced: str) -> None:
    response = http_requests.Response.__new__(http_requests.Response)
    response.headers = HTTPHeaderDict({"Content-Length": announced})
    assert response.body_bytes is None


def test_no_server_makes_us_wait_longer_than_our_limit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_requests, "LONGEST_WAIT_SECONDS", 0.05)
    slow = answering(503, {"Retry-After": "86400", "Content-Length": "0"})
    waits: list[float] = []

    class Recording(HttpClient):
        def wait(self, seconds: float) -> bool:
            waits.append(seconds)
            return super().wait(seconds)

    with (
        serving(folder, on("/a", slow)) as url,
        Recording() as client,
        pytest.raises(TemporaryError, match="answers 503"),
    ):
        read_document(client, f"{url}/a", 100)
    assert waits == [0.05, 0.05]


def test_nothing_is_tried_again_after_the_end() -> None:
    tries = []

    def attempt() -> None:
        tries.append(1)
        raise TemporaryError("no")

    client = HttpClient()
    client.cancel()
    with pytest.raises(TemporaryError):
        with_retries(client, attempt)
    assert len(tries) == 1
    with pytest.raises(FetchError, match="cancelled"):
        client.get("http://127.0.0.1:9/")


# --- another thread cancels


def head(handler: SimpleHTTPRequestHandler) -> None:
    """Nothing is answered."""


def half_a_body(handler: SimpleHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "14")
    handler.end_headers()
    handler.wfile.write(b"content")


def half_of_a_last_body(handler: SimpleHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Connection", "close")
    handler.send_header("Content-Length", "14")
    handler.end_headers()
    handler.wfile.write(b"content")


@pytest.mark.parametrize("begin", [head, half_a_body, half_of_a_last_body])
def test_another_thread_ends_a_request_at_once(folder: Path, begin: object) -> None:
    waiting, leave = threading.Event(), threading.Event()

    def stall(handler: SimpleHTTPRequestHandler) -> None:
        begin(handler)  # type: ignore[operator]
        waiting.set()
        leave.wait(20)

    with serving(folder, on("/a", stall)) as url, HttpClient() as client, HttpClient() as other:
        thread = Cancelling(client, waiting)
        thread.start()
        try:
            with pytest.raises(FetchError, match="cancelled"):
                read_document(client, f"{url}/a", 100)
            assert not leave.is_set()
        finally:
            leave.set()
            thread.join()
        (folder / "b").write_bytes(b"unharmed")
        assert read_document(other, f"{url}/b", 100) == b"unharmed"


def test_another_thread_ends_a_tls_handshake_at_once() -> None:
    """The server accepts, and then says nothing."""
    waiting = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server, HttpClient() as client:

        def accept() -> None:
            accepted, _ = server.accept()
            accepted.recv(1)  # the client's greeting
            waiting.set()
            accepted.recv(1 << 16)
            accepted.recv(1)  # until the client closes
            accepted.close()

        accepting = threading.Thread(target=accept)
        thread = Cancelling(client, waiting)
        accepting.start()
        thread.start()
        with pytest.raises(FetchError, match="cancelled"):
            client.get(f"https://127.0.0.1:{server.getsockname()[1]}/")
        thread.join()
        accepting.join()


class Cancelling(threading.Thread):
    """Cancels a client once its request waits for the server."""

    def __init__(self, client: HttpClient, waiting: threading.Event) -> None:
        super().__init__()
        self.client, self.waiting = client, waiting

    def run(self) -> None:
        assert self.waiting.wait(20)
        time.sleep(0.1)
        self.client.cancel()
