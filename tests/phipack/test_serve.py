"""`phipack serve` as a process: it says where it is, refuses what can't be, and ends on Ctrl-C."""

from __future__ import annotations

import random
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from devtools.catalogs import Publisher
from phipack.api.serving import serve_catalog
from targets.errors import PublicationError
from tests.support.command_line import command_environment, in_the_foreground, result_of, run_in
from tests.support.tcp_proxy import proxy_before


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A folder with a catalog in its store."""
    publisher = Publisher(tmp_path)
    publisher.place = publisher.store
    publisher.release("1.0.0")
    publisher.publish()
    return tmp_path


@contextmanager
def serving(folder: Path, *more: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run `phipack serve` on the store in a folder; give the process and its URL. `more`: options."""
    process = subprocess.Popen(
        [sys.executable, "-m", "phipack", "serve", "--store", "store", "--port", "0", "--log", *more],
        cwd=folder,
        env=command_environment(),
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=in_the_foreground,  # noqa: PLW1509 - one call, no locks
    )
    try:
        assert process.stderr is not None
        yield process, process.stderr.readline().split(" at ")[1].strip()
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def test_it_serves_until_it_is_interrupted(published: Path) -> None:
    with serving(published) as (process, url):
        with urllib.request.urlopen(f"{url}/metadata/timestamp.json", timeout=60) as answer:
            assert answer.status == 200
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "GET /metadata/timestamp.json" in said
    assert "Traceback" not in said


def test_pages_are_on_a_port_of_their_own_and_make_no_phone_wait(published: Path) -> None:
    """MLflow takes connections and answers none: every thread that makes pages hangs."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        mlflow = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with serving(published, "--pages-port", "0", "--tracking-uri", mlflow) as (process, url):
            assert process.stderr is not None
            pages = process.stderr.readline().split("pages at ")[1].strip()
            assert pages.startswith("http://127.0.0.1:")
            with urllib.request.urlopen(f"{pages}/style.css", timeout=30) as answer:
                assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
            hanging = [socket.create_connection(("127.0.0.1", int(pages.rpartition(":")[2]))) for _ in range(8)]
            for one in hanging:
                one.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            silent.settimeout(60)
            silent.accept()[0].close()  # a page has asked MLflow, and waits
            for path in ("/resolve?device=iPhone15,4", "/metadata/timestamp.json", "/health"):
                with urllib.request.urlopen(url + path, timeout=30) as answer:
                    assert answer.status == 200
            with pytest.raises(urllib.error.HTTPError, match="404") as missing:
                urllib.request.urlopen(f"{url}/models/phi", timeout=30)
            assert missing.value.headers["Content-Type"] == "application/json"
            missing.value.close()
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=60)
            for one in hanging:
                one.close()
    assert process.returncode == 130
    assert "Traceback" not in said


def test_pages_are_served_before_anything_is_published(tmp_path: Path) -> None:
    with serving(tmp_path, "--pages-port", "0") as (process, url):
        assert process.stderr is not None
        pages = process.stderr.readline().split("pages at ")[1].strip()
        with urllib.request.urlopen(pages, timeout=60) as answer:
            assert b"Nothing is registered, and nothing is published." in answer.read()
        with pytest.raises(urllib.error.HTTPError, match="503") as none:
            urllib.request.urlopen(f"{url}/health", timeout=30)
        none.value.close()


def test_a_fetch_that_was_killed_takes_only_what_is_missing(tmp_path: Path) -> None:
    """Killed when its four connections have brought a good half; each stalls there."""
    publisher = Publisher(tmp_path)
    publisher.place = publisher.store
    publisher.release("1.0.0", {"model.gguf": random.Random(5).randbytes(80_000_000)}, chunked=True)
    publisher.publish()
    stalled, enough = threading.Semaphore(0), 12_000_000

    def stall(passed: int, _: bytes) -> bool:
        if passed < enough:
            return False
        stalled.release()
        time.sleep(60)
        return True

    state = {"PHIPACK_STATE": str(tmp_path / "state")}
    wanted = ["--json", "fetch", "--device", "iPhone15,4", "--root", str(publisher.root), "-o", "bundle"]
    with serving(tmp_path) as (_, url):
        with proxy_before(url) as proxy:
            proxy.cuts = stall  # type: ignore[method-assign]
            command = [sys.executable, "-m", "phipack", *wanted, proxy.url]
            with subprocess.Popen(command, cwd=tmp_path, env=command_environment() | state) as killed:
                assert all(stalled.acquire(timeout=30) for _ in range(4))  # not the first of them alone
                time.sleep(1)
                killed.kill()
        assert not (tmp_path / "bundle").exists()
        taken = result_of(run_in(tmp_path, state)(*wanted, url))
    assert taken["resumed_bytes"] > enough
    lacking = taken["size_bytes"] - taken["resumed_bytes"]
    assert lacking <= taken["downloaded_bytes"] < lacking + 500_000  # the catalog's documents and the manifest
    assert {path.name for path in tmp_path.iterdir() if "bundle" in path.name} == {"bundle", "bundles"}


def test_a_port_that_is_taken_is_said(published: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run_in(published)("serve", "--store", "store", "--port", port, expect=1)
    assert f"can't listen on 127.0.0.1:{port}: Address already in use" in done.stderr
    assert "--port" in done.stderr


def test_a_store_without_a_catalog_is_said(tmp_path: Path) -> None:
    done = run_in(tmp_path)("serve", expect=1)
    assert "has no catalog" in done.stderr
    assert "phipack publish" in done.stderr


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_an_ipv6_address_is_shown_as_urls_have_it(published: Path, host: str) -> None:
    class Listening(Exception):  # noqa: N818 - how this test ends the server
        pass

    def listening(url: str) -> None:
        raise Listening(url)

    with pytest.raises(Listening, match=r"^http://\[::1\]:[0-9]+$"):
        serve_catalog(published / "store", host=host, port=0, on_listening=listening)


@pytest.mark.parametrize("host", ["my host", "a..b", "x" * 70, "::zz"])
def test_what_is_no_host_is_refused(published: Path, host: str) -> None:
    with pytest.raises(PublicationError, match="can't listen on"):
        serve_catalog(published / "store", host=host, port=0)
