"""Answers that come too slowly, or have no end: each exchange ends, in downloads, on S3 and with MLflow alike."""

from __future__ import annotations

import functools
import itertools
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from registry.bundle.manifest import FileEntry
from registry.ledger import mlflow_connection
from registry.ledger.mlflow_client import Mlflow
from registry.store import s3_client
from registry.store.s3 import S3Store
from registry.transfer import http as http_requests
from registry.transfer import pace
from registry.transfer.download import Transfer
from registry.transfer.http import HttpClient, read_document
from registry.transfer.pace import Pace, PacedResponse, PaceError
from targets.errors import (
    FetchUnreachableError,
    RegistryError,
    RegistryUnreachableError,
    StoreError,
    StoreUnreachableError,
)
from tests.support.raw_server import Answer, raw_server

HEAD = b"HTTP/1.1 200 OK\r\n"
SLOW = "it is too slow|timed out"
ENDLESS = "it sends headers or trailers without end"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pace, "PACE_SECONDS", 0.05)
    monkeypatch.setattr(pace, "LEAST_BYTES_PER_SECOND", 1_000_000)
    monkeypatch.setattr(pace, "OVERHEAD_BYTES_LIMIT", 300_000)
    monkeypatch.setattr(http_requests, "RETRY_WAITS_SECONDS", (0.0,))


def drip(start: bytes, piece: bytes = b"x") -> Answer:
    """Send `start`, and then a piece again and again, for ever, with pauses that no timeout meets."""

    def answer(_: bytes) -> Iterator[bytes]:
        yield start
        while True:
            time.sleep(0.002)
            yield piece

    return answer


def flood(start: bytes, piece: bytes) -> Answer:
    """Send `start`, and then a piece again and again, for ever, as fast as can be."""
    return lambda _: itertools.chain([start], itertools.repeat(piece * 100))


NEVER_ENDING: dict[str, tuple[Answer, str]] = {
    "a status line, byte by byte": (drip(b"HTTP/1.1 200 "), SLOW),
    "headers, byte by byte": (drip(HEAD + b"X-Slow: "), SLOW),
    "interim answers, one after the other": (drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), SLOW),
    "interim answers without a pause": (flood(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), ENDLESS),
    "a body, byte by byte": (drip(HEAD + b"Content-Length: 99\r\n\r\n"), SLOW),
    "a body of no length, byte by byte": (drip(HEAD + b"\r\n"), SLOW),
    "chunks, byte by byte": (drip(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"), SLOW),
    "trailers, byte by byte": (drip(HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n"), SLOW),
    "trailers without a pause": (flood(HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X-T: 1\r\n"), ENDLESS),
    "a chunk's extension without end": (flood(HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;", b"x"), "line|broke off"),
}


@pytest.mark.parametrize("name", NEVER_ENDING)
def test_an_answer_that_never_ends_is_ended(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answer, why = NEVER_ENDING[name]
    if why != SLOW:  # it is what was sent that ends it: a busy machine may take any time for that
        monkeypatch.setattr(pace, "PACE_SECONDS", 60)
    with (
        raw_server(answer) as url,
        HttpClient() as client,
        pytest.raises(FetchUnreachableError, match=f"{url}/a.*({why})"),
    ):
        read_document(client, f"{url}/a", 1000)


def test_a_refusal_that_never_ends_is_still_a_refusal() -> None:
    answer = drip(b"HTTP/1.1 503 Busy\r\n\r\n")
    with (
        raw_server(answer) as url,
        HttpClient() as client,
        pytest.raises(FetchUnreachableError, match="the server answers 503 Busy"),
    ):
        read_document(client, f"{url}/a", 1000)


def test_a_proxy_that_never_answers_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    with raw_server(drip(b"HTTP/1.1 200 OK\r\nX-Slow: ")) as url, HttpClient() as client:
        monkeypatch.setenv("https_proxy", url)
        with pytest.raises(FetchUnreachableError, match=f"through the proxy {url}.*({SLOW})"):
            read_document(client, "https://host.invalid/a", 1000)


def test_a_blob_that_comes_byte_by_byte_is_given_up(tmp_path: Path) -> None:
    entry = FileEntry(path="a", bytes=100_000, sha256="0" * 64)
    with (
        raw_server(drip(HEAD + b"Content-Length: 100000\r\n\r\n")) as url,
        Transfer() as transfer,
        pytest.raises(FetchUnreachableError, match=SLOW),
    ):
        transfer.download(entry, f"{url}/a", tmp_path / "a")


def test_a_document_has_a_bound_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "LEAST_BYTES_PER_SECOND", 1)
    monkeypatch.setattr(http_requests, "DOCUMENT_SECONDS", 0.05)
    with (
        raw_server(drip(HEAD + b"\r\n")) as url,
        HttpClient() as client,
        pytest.raises(FetchUnreachableError, match=r"it did not come within 0 s, all tries together"),
    ):
        read_document(client, f"{url}/a", 1_000_000)


def test_what_is_quick_enough_goes_on() -> None:
    content = b"x" * 500_000
    answer = functools.partial(_chunked, content)
    with raw_server(answer) as url, HttpClient() as client:
        assert read_document(client, f"{url}/a", len(content)) == content


def _chunked(content: bytes, _: bytes) -> Iterator[bytes]:
    yield HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    for at in range(0, len(content), 1000):
        yield b"3e8\r\n" + content[at : at + 1000] + b"\r\n"
    yield b"0\r\n\r\n"


def test_time_in_which_nobody_reads_does_not_count() -> None:
    with (
        raw_server(lambda _: [HEAD + b"Content-Length: 4\r\n\r\nab", b"cd"]) as url,
        HttpClient() as client,
        client.get(f"{url}/a") as response,
    ):
        time.sleep(0.06)
        room = memoryview(bytearray(4))
        assert response.read_into(room) + response.read_into(room) == 4


def test_the_next_request_has_the_whole_timeout() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(20.0)
        theirs.sendall(HEAD + b"Content-Length: 0\r\n\r\n")
        with PacedResponse(ours, method="GET") as response:
            response.begin()
        assert ours.gettimeout() == 20.0


def test_a_window_with_enough_is_followed_by_another() -> None:
    kept = Pace(0.05)
    kept.delivered(60_000)
    assert kept.patience(20.0) == 20.0
    kept.received(0, 0.06)
    assert kept.patience(20.0) == 0.05
    with pytest.raises(PaceError, match="0 bytes of content in 0 s"):
        kept.received(10, 0.05)


@pytest.fixture
def _one_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_client, "TRIES", 1)
    monkeypatch.setattr(mlflow_connection._Answer, "pace_seconds", lambda _: 0.05)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        monkeypatch.setenv(name, "eu-central-1")


SLOW_ANSWERS = ["headers, byte by byte", "interim answers without a pause", "a body, byte by byte"]


@pytest.mark.parametrize("name", SLOW_ANSWERS)
@pytest.mark.usefixtures("_one_try")
def test_s3_is_held_to_the_same(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with raw_server(NEVER_ENDING[name][0]) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", url)
        with pytest.raises(StoreUnreachableError):
            S3Store("bucket", "store").read_document("metadata/timestamp.json")


INTERIM_ANSWERS: dict[str, Answer] = {
    "a line without end": flood(b"", b"x"),
    "a line, byte by byte": drip(b"HTTP/1.1 1"),
    "headers without a pause": flood(b"HTTP/1.1 100 Continue\r\n", b"X-T: 1\r\n"),
    "headers, byte by byte": drip(b"HTTP/1.1 100 Continue\r\nX-T: "),
    "no end of its headers": lambda _: [b"HTTP/1.1 100 Continue\r\n"],  # botocore reads nothing, again and again
}


@pytest.mark.parametrize("name", INTERIM_ANSWERS)
@pytest.mark.usefixtures("_one_try")
def test_s3_is_not_waited_for_before_an_upload_without_end(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The answer to `Expect: 100-continue`, which botocore reads in a loop of its own."""
    asked = []

    def answer(head: bytes) -> Iterable[bytes]:
        asked.append(head)
        return INTERIM_ANSWERS[name](head)

    with raw_server(answer) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", url)
        with pytest.raises(StoreUnreachableError):
            S3Store("bucket", "store").write_document("metadata/timestamp.json", b"{}", replacing=None)
    assert b"100-continue" in asked[0].lower()


@pytest.mark.usefixtures("_one_try")
def test_an_upload_goes_on_after_its_interim_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    interim = b"HTTP/1.1 100 Continue\r\nConnection: keep-alive\r\n\r\n"
    with raw_server(lambda _: [interim, HEAD + b"ETag: x\r\nContent-Length: 0\r\n\r\n"]) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", url)
        assert S3Store("bucket", "store").write_document("metadata/timestamp.json", b"{}", replacing=None)


@pytest.mark.usefixtures("_one_try")
def test_a_botocore_without_what_is_replaced_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    import botocore
    from botocore.awsrequest import AWSConnection
    from botocore.httpsession import URLLib3Session

    usual = URLLib3Session.__init__

    def changed(self: URLLib3Session, *args: object, **options: object) -> None:
        usual(self, *args, **options)
        del self._pool_classes_by_scheme

    for without in (AWSConnection, URLLib3Session):
        s3_client._shared_client.cache_clear()
        with monkeypatch.context() as patch:
            if without is AWSConnection:
                patch.delattr(AWSConnection, "_handle_expect_response")
            else:
                patch.setattr(URLLib3Session, "__init__", changed)
            with pytest.raises(StoreError, match=f"botocore {botocore.__version__} is not known") as caught:
                s3_client.s3_client()
        assert "constraints.txt" in caught.value.fix


def test_an_mlflow_without_what_is_replaced_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from mlflow import MlflowClient, __version__
    from mlflow.utils import request_utils

    with monkeypatch.context() as patch:
        patch.delattr(request_utils, "TCPKeepAliveHTTPAdapter")
        with pytest.raises(RegistryError, match=f"MLflow {__version__} is not known") as caught:
            mlflow_connection.load("http://127.0.0.1:1")
    assert "constraints.txt" in caught.value.fix
    patched = Mlflow(f"sqlite:///{tmp_path}/mlflow.db")
    patched.__dict__["_client"] = object.__new__(MlflowClient)
    monkeypatch.delattr(MlflowClient, "_get_registry_client")
    with pytest.raises(RegistryError, match=f"MLflow {__version__} is not known"):
        patched.set_alias("phi.iphone-15", "production", 1)


@pytest.mark.parametrize("name", SLOW_ANSWERS)
@pytest.mark.usefixtures("_one_try")
def test_mlflow_is_held_to_the_same(name: str) -> None:
    with (
        raw_server(NEVER_ENDING[name][0]) as url,
        pytest.raises(RegistryUnreachableError, match="unreachable or in trouble"),
    ):
        Mlflow(url).connect()


def test_many_answers_at_once_are_each_held() -> None:
    ended: list[str] = []

    def fetch(client: HttpClient, url: str) -> None:
        with pytest.raises(FetchUnreachableError):
            read_document(client, url, 10)
        ended.append(url)

    with raw_server(drip(HEAD)) as url, HttpClient() as client:
        threads = [threading.Thread(target=fetch, args=(client, f"{url}/{one}")) for one in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(ended) == 3
