"""What a server sends in place of a file: refusals, pages, redirects. Errors say which, and show no signed URL."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import pytest

from devtools.servers import answering, on, serving
from registry.transfer.http import HttpClient, RefusedError, read_document
from targets.errors import FetchError

Answer = Callable[[SimpleHTTPRequestHandler], None]


@pytest.fixture(autouse=True)
def _local(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("registry.transfer.http.RETRY_WAITS_SECONDS", (0.01,))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a").write_bytes(b"content")
    return tmp_path


PAGE = b"<!DOCTYPE html><title>Sign in</title>"


def test_a_login_page_is_called_one_and_where_it_came_from_is_named(folder: Path) -> None:
    (folder / "login").write_bytes(PAGE)
    with (
        serving(folder, on("/a", answering(302, {"Location": "/login", "Content-Length": "0"}))) as url,
        HttpClient() as client,
        pytest.raises(FetchError, match=f"web page, not the file, after it redirected to {url}/login") as caught,
    ):
        read_document(client, f"{url}/a", 100)
    assert "login" in caught.value.fix


def test_compressed_content_is_called_that(folder: Path) -> None:
    (folder / "a").write_bytes(gzip.compress(b"{}"))
    with (
        serving(folder) as url,
        HttpClient() as client,
        pytest.raises(FetchError, match=r"compressed \(gzip\), though it was asked not to"),
    ):
        read_document(client, f"{url}/a", 100)


@pytest.mark.parametrize(("status", "fix"), [(400, "a signed one is refused"), (410, "removed there for good")])
def test_each_refusal_has_a_fix_of_its_own(folder: Path, status: int, fix: str) -> None:
    with (
        serving(folder, on("/a", answering(status, {"Content-Length": "0"}))) as url,
        HttpClient() as client,
        pytest.raises(RefusedError) as caught,
    ):
        client.get(f"{url}/a")
    assert fix in caught.value.fix


def test_what_a_server_says_of_a_refusal_is_in_the_message_and_its_escapes_are_not(folder: Path) -> None:
    body = b"<Error><Code>AccessDenied</Code><Message>Request \x1b[31mhas expired</Message></Error>"
    with (
        serving(folder, on("/a", answering(403, {"Content-Length": str(len(body))}, body))) as url,
        HttpClient() as client,
        pytest.raises(RefusedError, match=r"403 Forbidden: AccessDenied: Request \\x1b\[31mhas expired") as caught,
    ):
        client.get(f"{url}/a?X-Amz-Signature=abc")
    assert "abc" not in str(caught.value)


@pytest.mark.parametrize("location", ["http://[::1", "http://host:notaport/", "http://my host/", "http://h:99999/"])
def test_a_redirect_to_what_is_no_address_is_refused(folder: Path, location: str) -> None:
    with (
        serving(folder, on("/a", answering(302, {"Location": location, "Content-Length": "0"}))) as url,
        HttpClient() as client,
        pytest.raises(FetchError, match=r"redirects to|is not a URL"),
    ):
        client.get(f"{url}/a")


@pytest.mark.parametrize(
    "url", ["http://host:notaport/", "http://my host/", "http://h:99999/", "http://[::1/", "http://"]
)
def test_what_is_no_address_is_one_error(url: str) -> None:
    with HttpClient() as client, pytest.raises(FetchError, match="is not a URL"):
        client.get(url)


@pytest.mark.parametrize(
    ("leads_to", "answer", "problem"),
    [
        ("http://127.0.0.1:9/x?verify=secret", None, "can't be reached"),
        ("/b?verify=secret", answering(200, {}, b"<html>Log in"), "a web page"),
        ("/b?verify=secret", answering(200, {}, b"\x1f\x8b"), "gzip"),
        ("/b?verify=secret", answering(302, {"Location": "ftp://h/x?verify=secret"}), "redirects to"),
        ("/b?verify=secret", answering(403, {"Content-Length": "0"}), "403 Forbidden"),
        ("http://h:0/x?verify=secret", None, "is not a URL"),
    ],
)
def test_a_signed_url_that_a_server_redirects_to_is_not_shown(
    folder: Path, leads_to: str, answer: Answer | None, problem: str
) -> None:
    redirect = on("/a", answering(302, {"Location": leads_to, "Content-Length": "0"}))
    then = on("/b", answer) if answer is not None else redirect
    with (
        serving(folder, lambda handler: redirect(handler) or then(handler)) as url,
        HttpClient() as client,
        pytest.raises(FetchError, match=problem) as caught,
    ):
        read_document(client, f"{url}/a", 100)
    assert "secret" not in str(caught.value)
