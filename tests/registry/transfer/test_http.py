"""HTTP requests: connections that are kept, proxies, redirects, and how long a server may ask us to wait."""

from __future__ import annotations

import time
from email.utils import formatdate
from pathlib import Path

import pytest

from devtools.servers import FolderHandler, answering, on, serving
from registry.transfer import http as http_requests
from registry.transfer.http import TemporaryError, Web, persist, read_small
from targets.errors import FetchError


@pytest.fixture(autouse=True)
def _local(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(http_requests, "WAITS_SECONDS", (0.01, 0.01))


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
    with serving(folder, kind=Counting) as url, Web() as web:
        for _ in range(9):
            assert read_small(web, f"{url}/a", 100) == b"content"
            time.sleep(0.01)
        assert web.received_bytes == 63
    assert Counting.connections == 3


class Proxy(FolderHandler):
    """A proxy that has every site's files itself."""

    seen: tuple[str, str | None] = ("", None)

    def serve(self) -> None:
        Proxy.seen = (self.path, self.headers.get("Proxy-Authorization"))
        self.path = "/" + self.path.rsplit("/", 1)[1]
        super().serve()


def test_the_environments_proxy_is_asked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(folder, kind=Proxy) as proxy, Web() as web:
        monkeypatch.setenv("http_proxy", proxy.replace("//", "//me:pass@"))
        assert read_small(web, "http://models.invalid/x/a", 100) == b"content"
        assert Proxy.seen == ("http://models.invalid/x/a", "Basic bWU6cGFzcw==")
        monkeypatch.setenv("no_proxy", "models.invalid")
        with Web() as another, pytest.raises(FetchError, match="can't be reached"):
            read_small(another, "http://models.invalid/x/a", 100)


def test_redirects_never_leave_https() -> None:
    assert http_requests._redirected("https://a/x", "/y") == "https://a/y"
    assert http_requests._redirected("http://a/x", "https://b/y?z") == "https://b/y?z"
    for location in ("http://a/y", "file:///etc/passwd", ""):
        with pytest.raises(FetchError, match="redirects to"):
            http_requests._redirected("https://a/x", location)


@pytest.mark.parametrize(
    ("written", "seconds"), [("3", 3), ("", 0), ("soon", 0), (formatdate(0, usegmt=True), 0), ("-1", 0)]
)
def test_retry_after_is_read(written: str, seconds: float) -> None:
    assert http_requests._wait_of(written) == seconds
    assert 50 < http_requests._wait_of(formatdate(time.time() + 60, usegmt=True)) <= 60


def test_no_server_makes_us_wait_longer_than_our_limit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_requests, "LONGEST_WAIT_SECONDS", 0.05)
    slow = answering(503, {"Retry-After": "86400", "Content-Length": "0"})
    start = time.monotonic()
    with serving(folder, on("/a", slow)) as url, Web() as web, pytest.raises(TemporaryError, match="answers 503"):
        read_small(web, f"{url}/a", 100)
    assert time.monotonic() - start < 2


def test_nothing_is_tried_again_after_the_end() -> None:
    tries = []

    def attempt() -> None:
        tries.append(1)
        raise TemporaryError("no")

    web = Web()
    web.close()
    with pytest.raises(TemporaryError):
        persist(web, attempt)
    assert len(tries) == 1
    with pytest.raises(FetchError, match="stopped"):
        web.get("http://127.0.0.1:9/")
