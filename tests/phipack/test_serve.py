"""`phipack serve` as a process: it says where it is, refuses what can't be, and ends on Ctrl-C."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.phipack.conftest import command_environment, run_in
from tests.registry.catalogs import Publisher


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A folder with a catalog in its store."""
    publisher = Publisher(tmp_path)
    publisher.place = publisher.store
    publisher.release("1.0.0")
    publisher.publish()
    return tmp_path


def test_it_serves_until_it_is_interrupted(published: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "phipack", "serve", "--store", "store", "--port", "0", "--log"],
        cwd=published,
        env=command_environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    url = process.stderr.readline().split(" at ")[1].strip()
    with urllib.request.urlopen(f"{url}/metadata/timestamp.json", timeout=10) as answer:
        assert answer.status == 200
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "GET /metadata/timestamp.json" in said
    assert "Traceback" not in said


def test_a_port_that_is_taken_is_said(published: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run_in(published)("serve", "--store", "store", "--port", port, expect=1)
    assert f"127.0.0.1:{port} can't be listened on: Address already in use" in done.stderr
    assert "--port" in done.stderr


def test_a_store_without_a_catalog_is_said(tmp_path: Path) -> None:
    done = run_in(tmp_path)("serve", expect=1)
    assert "holds no catalog" in done.stderr
    assert "phipack publish" in done.stderr
