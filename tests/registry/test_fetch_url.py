"""Fetch by URL, from servers that work, fail or hang: the whole bundle, verified, or nothing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import pytest

from devtools.bundles import make_bundle
from devtools.servers import Fault, answering, on, serving
from registry.bundle.folder import Bundle
from registry.bundle.manifest import MANIFEST_BYTES_LIMIT, MANIFEST_NAME
from registry.fetch import fetch
from registry.transfer import http as http_requests
from registry.transfer.bundle_download import DownloadOptions
from registry.transfer.download import TransferStatistics
from targets.errors import FetchError
from tests.support.folders import contents, names_in

pytestmark = pytest.mark.usefixtures("local_and_impatient")


def test_a_url_is_fetched(bundle: Bundle, out: Path) -> None:
    asked: list[str] = []
    with serving(bundle.path.parent, asked=asked) as url:
        for source in (f"{url}/bundle", f"{url}/bundle/", f"{url}/bundle/{MANIFEST_NAME}", f"{url}/bundle?token=1#x"):
            fetched = fetch(source, out, DownloadOptions(digest=bundle.digest))
            assert contents(out) == contents(bundle.path)
            assert fetched.bundle.digest == bundle.digest
            assert fetched.statistics == TransferStatistics(bundle.manifest.total_bytes)
            assert fetched.reference is None
            shutil.rmtree(out)
    assert len(asked) == 4 * 4
    assert asked[-1].endswith("?token=1")


def test_names_that_a_url_must_quote_are_fetched(tmp_path: Path, out: Path) -> None:
    odd = make_bundle(tmp_path / "odd one", {"a b#c%20?.bin": b"1", "ü/ä&=+.bin": b"2"})
    with serving(tmp_path) as url:
        fetch(f"{url}/odd%20one", out)
    assert contents(out) == contents(odd.path)


def cut_short(count: int) -> Callable[..., None]:
    return answering(200, {"Content-Length": "7000"}, b"weights" * (count // 7))


def hello(handler: SimpleHTTPRequestHandler) -> None:
    handler.wfile.write(b"hello\n")


FAULTS: dict[str, tuple[Fault, str]] = {
    "cut short": (on("/model.gguf", cut_short(700)), "700 bytes of 7000 came"),
    "cut at once": (on("/model.gguf", cut_short(0)), "broke off: 0 bytes"),
    "cut without a length": (on("/model.gguf", answering(200, {}, b"weights")), "7 bytes of 7000"),
    "changed byte": (
        on("/model.gguf", answering(200, {"Content-Length": "7000"}, b"weightz" + b"weights" * 999)),
        "the manifest says 7000 bytes",
    ),
    "endless": (on("/model.gguf", answering(200, {}, b"weights" * 100_000)), "sends more than the 7000 bytes"),
    "too large, announced": (on("/model.gguf", answering(200, {"Content-Length": "7001"})), "announces 7001 bytes"),
    "not found": (on("/model.gguf", answering(404, {"Content-Length": "0"})), "answers 404"),
    "no manifest": (on("/manifest.json", answering(404, {"Content-Length": "0"})), "answers 404"),
    "forbidden": (on("/manifest.json", answering(403, {"Content-Length": "0"})), "answers 403"),
    "server error": (on("/model.gguf", answering(500, {"Content-Length": "0"})), "answers 500"),
    "unavailable": (on("/manifest.json", answering(503, {"Content-Length": "0"})), "answers 503"),
    "redirect loop": (on("/model.gguf", answering(302, {"Location": "/model.gguf"})), "answers 302"),
    "redirect to a file": (
        on("/model.gguf", answering(302, {"Location": "file:///etc/passwd"})),
        "redirects to file:///etc/passwd",
    ),
    "redirect to ftp": (on("/manifest.json", answering(301, {"Location": "ftp://host/x"})), "redirects to ftp:"),
    "no answer": (on("/model.gguf", lambda handler: setattr(handler, "close_connection", True)), "model.gguf"),
    "no HTTP": (on("/manifest.json", hello), "manifest.json"),
    "a page, not a manifest": (on("/manifest.json", answering(200, {}, b"<html>")), "sends a web page, not the file"),
    "an endless manifest": (
        on("/manifest.json", answering(200, {}, b" " * (MANIFEST_BYTES_LIMIT + 10))),
        "the limit is",
    ),
    "a huge manifest, announced": (
        on("/manifest.json", answering(200, {"Content-Length": "99999999"})),
        "announces 99999999 bytes; the limit is",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_server_leaves_nothing(bundle: Bundle, out: Path, name: str) -> None:
    fault, words = FAULTS[name]
    with serving(bundle.path, fault) as url, pytest.raises(FetchError, match=words) as caught:
        fetch(url, out)
    assert caught.value.fix
    assert url.removeprefix("http://") in str(caught.value)
    assert names_in(out.parent) == []


def test_a_redirect_is_followed(bundle: Bundle, out: Path, tmp_path: Path) -> None:
    with serving(bundle.path) as elsewhere:
        fault = on("/model.gguf", answering(302, {"Location": f"{elsewhere}/model.gguf"}))
        with serving(bundle.path, fault) as url:
            fetch(url, out)
    assert contents(out) == contents(bundle.path)


def test_a_server_that_hangs_is_given_up(bundle: Bundle, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_requests, "SILENCE_SECONDS", 0.2)

    def hang(handler: object) -> None:
        time.sleep(1)

    for path in ("/manifest.json", "/model.gguf"):
        with serving(bundle.path, on(path, hang)) as url, pytest.raises(FetchError, match="timed out"):
            fetch(url, out)
    assert names_in(out.parent) == []


def test_a_server_that_hangs_in_the_body_is_given_up(
    bundle: Bundle, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_requests, "SILENCE_SECONDS", 0.2)

    def stall(handler: object) -> None:
        cut_short(700)(handler)
        time.sleep(1)

    with serving(bundle.path, on("/model.gguf", stall)) as url, pytest.raises(FetchError, match="broke off: timed out"):
        fetch(url, out)
    assert names_in(out.parent) == []


def test_a_missing_server_is_reported(out: Path) -> None:
    with pytest.raises(FetchError, match="can't be reached"):
        fetch("http://127.0.0.1:9/x", out)


@pytest.mark.parametrize(
    "url", ["ftp://host/x", "file:///etc", "http://", "http://[::1", "https://me:secret@host/x", "s3://bucket/x"]
)
def test_other_urls_are_refused(out: Path, url: str) -> None:
    with pytest.raises(FetchError) as caught:
        fetch(url, out)
    assert "secret" not in str(caught.value)
    assert caught.value.fix


_INTERRUPTED = """
import sys, threading
from pathlib import Path
from registry.fetch import fetch
fetch(sys.argv[1], Path(sys.argv[2]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_download_leaves_nothing(bundle: Bundle, out: Path, number: int) -> None:
    def stall(handler: object) -> None:
        cut_short(700)(handler)
        started.write_bytes(b"")
        time.sleep(1)

    started = out.parent.parent / "started"
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    with serving(bundle.path, on("/model.gguf", stall)) as url:
        command = [sys.executable, "-c", _INTERRUPTED, url, str(out)]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment) as process:
            while not started.exists():
                time.sleep(0.01)
            process.send_signal(number)
        # Killed, it leaves an empty folder for the next try, which removes it.
        assert len(names_in(out.parent)) == (number == signal.SIGKILL)
    with serving(bundle.path) as url:
        fetch(url, out)
    assert names_in(out.parent) == ["out"]
