"""One network for downloads, S3 and MLflow: the same CAs, proxies and exemptions, and the cause in every message."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
import requests.utils

from devtools.servers import running
from registry.files.staging import owner_mark
from registry.ledger.ledger import open_ledger
from registry.store.folder import FolderStore
from registry.store.protocol import Blob
from registry.store.s3 import S3Store
from registry.transfer.http import HttpClient
from registry.transfer.network_settings import ca_file, proxy_for
from targets.errors import FetchError, PhipackError, RegistryError, SetupError, StoreError
from tests.support.tls import server_context, write_certificate

NAMES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "AWS_CA_BUNDLE")
BLOB = Blob("sha256:ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73", 7)  # of b"content"


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*NAMES, "MLFLOW_TRACKING_SERVER_CERT_PATH", "MLFLOW_TRACKING_INSECURE_TLS"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The certificate of a private CA, and its server's."""
    return write_certificate(tmp_path_factory.mktemp("tls") / "server.pem")


class Everything(BaseHTTPRequestHandler):
    """An S3 that has one object under every name, and an MLflow that has nothing."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(b"{}" if "/api/" in self.path else b"content")

    def do_HEAD(self) -> None:
        self._answer(b"content", body=False)

    def _answer(self, content: bytes, *, body: bool = True) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(content if body else b"")

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:
            self.close_connection = True  # the client does not trust us

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def server(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Its URL, which is S3's endpoint too."""
    with running(partial(Everything), server_context(certificate)) as port:
        url = f"https://127.0.0.1:{port}"
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", url)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
            monkeypatch.setenv(name, "us-east-1")
        yield url


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "AWS_CA_BUNDLE"])
def test_a_ca_that_any_variable_names_is_trusted_everywhere(
    server: str, certificate: Path, variable: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(variable, str(certificate))
    with HttpClient() as client, client.get(f"{server}/x") as response:
        assert response.status == 200
    store = S3Store("bucket", "x")
    assert store.blob_bytes(BLOB.digest) == 7
    store.copy_out(BLOB.digest, tmp_path / "out", what="a file")
    with store.open_blob(BLOB.digest) as source:
        assert source.read() == b"content"
    assert open_ledger(server, FolderStore(tmp_path / "store")).models() == []
    os.environ.pop("MLFLOW_TRACKING_SERVER_CERT_PATH", None)


def test_a_ca_that_nobody_names_is_refused_with_the_cause_everywhere(server: str, tmp_path: Path) -> None:
    store = S3Store("bucket", "x")

    def download() -> None:
        with HttpClient() as client:
            client.get(f"{server}/x")

    for refused, kind in (
        (download, FetchError),
        (lambda: store.blob_bytes(BLOB.digest), StoreError),
        (lambda: open_ledger(server, FolderStore(tmp_path / "store")).models(), RegistryError),
    ):
        with pytest.raises(kind, match="self-signed certificate") as caught:
            refused()
        assert "REQUESTS_CA_BUNDLE" in caught.value.fix
        assert caught.value.exit_code == 1


@pytest.mark.parametrize("variable", NAMES)
def test_a_variable_that_names_nothing_is_named(server: str, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "/missing.pem")
    for use in (lambda: HttpClient().get(f"{server}/x"), lambda: S3Store("bucket").blob_bytes(BLOB.digest)):
        with pytest.raises(PhipackError, match=f"{variable} names /missing.pem"):
            use()


def test_the_systems_own_file_is_used_as_it_is(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert ca_file() == str(certificate)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
    assert ca_file() == str(certificate)


def test_the_file_of_all_cas_goes_with_its_process_however_that_ends(
    certificate: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What a killed process left is removed by the next one; that of a living one, and another machine's, stays."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setenv("AWS_CA_BUNDLE", str(write_certificate(tmp_path / "other.pem")))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    killed = "import os, signal; from registry.transfer.network_settings import ca_file; print(ca_file(), flush=True)"
    made = [_said(killed + end) for end in ("", "; os.kill(os.getpid(), signal.SIGKILL)")]
    assert [path.exists() for path in made] == [False, True]
    mine = owner_mark()
    others = [f"phipack-ca-{mark}abc.pem" for mark in (mine, f"0000000f-{mine.split('-')[1]}-")]
    for name in others:
        (tmp_path / "temporary" / name).touch()
    (tmp_path / "temporary" / "phipack-ca-mine.pem").touch()
    last = _said(killed + "; os.kill(os.getpid(), signal.SIGKILL)")
    assert last.read_bytes().count(b"BEGIN CERTIFICATE") == 2
    assert last.stat().st_mode & 0o077 == 0
    left = {path.name for path in (tmp_path / "temporary").iterdir()}
    assert left == {last.name, *others, "phipack-ca-mine.pem"}


def _said(program: str) -> Path:
    """Run a program; return the path that it prints."""
    run = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=False)
    return Path(run.stdout.strip())


def test_a_temporary_folder_that_can_not_be_written_is_named(
    certificate: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setenv("AWS_CA_BUNDLE", str(write_certificate(tmp_path / "other.pem")))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(SetupError, match="missing"):
        ca_file()


EXEMPT = [
    ("10.1.2.3", "10.0.0.0/8", True),
    ("11.1.2.3", "10.0.0.0/8", False),
    ("models.example", "example", True),
    ("models.example", ".example", True),
    ("notexample", "example", False),
    ("models.example", "models.example:80", True),
    ("models.example", "models.example:81", False),
    ("models.example", "*", True),
    ("models.example", "localhost, models.example", True),
    ("models.example", "", False),
    ("[::1]", "::1", True),
    ("[fd00::1]", "fd00::/8", True),
]


@pytest.mark.parametrize(("host", "no_proxy", "direct"), EXEMPT)
def test_no_proxy_has_hosts_domains_ports_and_networks(
    host: str, no_proxy: str, direct: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", no_proxy)
    monkeypatch.setenv("ALL_PROXY", "http://proxy.example:3128")
    assert (proxy_for(f"http://{host}/x") is None) == direct
    if ":" not in host.strip("[]"):  # requests, which MLflow's client is made of, knows no networks of IPv6
        proxies = requests.utils.get_environ_proxies(f"http://{host}/x")
        chosen = requests.utils.select_proxy(f"http://{host}/x", proxies)
        assert (chosen is None) == direct or no_proxy in ("example", "models.example:80")


def test_s3_goes_through_all_proxy_unless_its_network_is_exempt(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "us-east-1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with running(Everything) as port:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
        monkeypatch.setenv("NO_PROXY", "127.0.0.0/8")
        assert S3Store("bucket").blob_bytes(BLOB.digest) == 7
        monkeypatch.setenv("NO_PROXY", "")
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://models.invalid")
        monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{port}")
        assert S3Store("bucket").blob_bytes(BLOB.digest) == 7


@pytest.mark.parametrize(
    ("proxy", "said"),
    [
        ("socks5://127.0.0.1:9", "names a SOCKS proxy, socks5://127.0.0.1:9"),
        ("http://127.0.0.1:notaport", "is not a URL: check its host and its port"),
        ("http://127.0.0.1:99999", "is not a URL: check its host and its port"),
        ("http://me:secret@my proxy:80", r"http://me:\*\*\*@my proxy:80' is not a URL"),
    ],
)
@pytest.mark.parametrize("variable", ["http_proxy", "ALL_PROXY"])
def test_a_proxy_of_no_use_is_refused_by_name_everywhere(
    proxy: str, said: str, variable: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(variable, proxy)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://models.example")
    for use in (
        lambda: proxy_for("http://models.example/x"),
        lambda: HttpClient().get("http://models.example/x"),
        lambda: S3Store("bucket").blob_bytes(BLOB.digest),
        lambda: open_ledger("http://models.example", FolderStore(tmp_path / "store")).models(),
    ):
        with pytest.raises((SetupError, FetchError, StoreError, RegistryError), match=said) as caught:
            use()
        assert variable.lower() in str(caught.value)
        assert "secret" not in str(caught.value)
        assert caught.value.exit_code == 1
