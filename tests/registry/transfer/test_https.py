"""HTTPS and proxies, as a phone's or a CI job's network has them."""

from __future__ import annotations

import select
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from devtools.servers import FolderHandler, answering, on, running
from registry.bundle.folder import Bundle, verify
from registry.fetch import fetch
from targets.errors import FetchError, FetchUnreachableError
from tests.support.tls import server_context, write_certificate


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of 127.0.0.1 with its key, in one PEM file."""
    return write_certificate(tmp_path_factory.mktemp("tls") / "server.pem")


@contextmanager
def serving_tls(folder: Path, certificate: Path, fault: Any = None) -> Iterator[str]:
    handler = partial(TlsHandler, directory=str(folder), fault=fault, asked=[])
    with running(handler, server_context(certificate)) as port:
        yield f"https://127.0.0.1:{port}"


class TlsHandler(FolderHandler):
    """Without ranges, and with clients that do not trust it."""

    def handle(self) -> None:
        try:
            super().handle()
        except (ssl.SSLError, ConnectionError):
            self.close_connection = True  # the client does not trust us


@pytest.fixture
def trusted(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system trusts the certificate."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))


@pytest.mark.usefixtures("trusted")
def test_a_bundle_comes_over_https(bundle: Bundle, certificate: Path, tmp_path: Path) -> None:
    with serving_tls(bundle.path, certificate) as url:
        verify(fetch(url, tmp_path / "out").bundle)


def test_a_certificate_that_nobody_vouches_for_is_refused_at_once(
    bundle: Bundle, certificate: Path, tmp_path: Path
) -> None:
    with serving_tls(bundle.path, certificate) as url, pytest.raises(FetchError) as caught:
        fetch(url, tmp_path / "out")
    assert "its certificate is not valid: self-signed certificate" in caught.value.problem
    assert not isinstance(caught.value, FetchUnreachableError)
    assert "SSL_CERT_FILE" in str(caught.value.fix)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("trusted")
def test_a_certificate_of_another_host_is_refused(bundle: Bundle, certificate: Path, tmp_path: Path) -> None:
    with serving_tls(bundle.path, certificate) as url, pytest.raises(FetchError, match="its certificate is not valid"):
        fetch(url.replace("127.0.0.1", "localhost"), tmp_path / "out")


@pytest.mark.usefixtures("trusted")
def test_https_does_not_lead_to_http(bundle: Bundle, certificate: Path, tmp_path: Path) -> None:
    away = on("/manifest.json", answering(302, {"Location": "http://127.0.0.1:9/manifest.json", "Content-Length": "0"}))
    with serving_tls(bundle.path, certificate, away) as url, pytest.raises(FetchError, match="redirects to http:"):
        fetch(url, tmp_path / "out")


class ConnectProxy(BaseHTTPRequestHandler):
    """An HTTP proxy with CONNECT; remembers what was asked."""

    asked: list[tuple[str, str | None]]

    def __init__(self, *args: Any, asked: list[tuple[str, str | None]]) -> None:
        self.asked = asked
        super().__init__(*args)

    def do_CONNECT(self) -> None:
        self.asked.append((self.path, self.headers.get("Proxy-Authorization")))
        host, _, port = self.path.partition(":")
        with socket.create_connection((host, int(port))) as server:
            self.send_response(200)
            self.end_headers()
            ends = {self.connection: server, server: self.connection}
            while ready := select.select(list(ends), [], [], 10)[0]:
                for end in ready:
                    if not (piece := end.recv(1 << 16)):
                        return
                    ends[end].sendall(piece)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.mark.usefixtures("trusted")
def test_a_proxy_forwards_https_and_receives_its_password(
    bundle: Bundle, certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str | None]] = []
    with running(partial(ConnectProxy, asked=asked)) as port:
        monkeypatch.setenv("https_proxy", f"http://ann:secret@127.0.0.1:{port}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        with serving_tls(bundle.path, certificate) as url:
            verify(fetch(url, tmp_path / "out").bundle)
    assert asked
    assert set(asked) == {(url.removeprefix("https://"), "Basic YW5uOnNlY3JldA==")}
