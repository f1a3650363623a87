"""`phipack doctor`: what it finds on a machine, in a registry, in a store; and that it changes nothing."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import socket
import sys
import time
from collections import namedtuple
from collections.abc import Callable, Iterable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from phipack.diagnosis import machine, services
from phipack.diagnosis.check import Check
from phipack.diagnosis.services import ClockReading, check_clock, check_registry, check_store
from registry.ledger.ledger import open_ledger
from registry.store.folder import FolderStore
from targets.installation import Requirement
from tests.support.command_line import PROJECT, InProcess
from tests.support.raw_server import raw_server

Answer = Callable[[BaseHTTPRequestHandler], None]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the imports of the runtimes, which take seconds and have a test of their own."""
    monkeypatch.setattr(machine.check_runtimes, "__defaults__", ((),))


def found(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in document["result"]["checks"]}


@pytest.mark.usefixtures("quick")
def test_an_empty_folder_is_well_and_stays_empty(command: InProcess, tmp_path: Path) -> None:
    document = command("doctor", "--json").document
    checks = found(document)
    assert document["ok"] is True
    assert set(checks) >= {"Python", "base install", "project file", "registry", "store", "clock", "disk"}
    assert "not there yet" in checks["registry"]["found"]
    assert "not there yet" in checks["store"]["found"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("quick")
def test_what_fails_is_a_row_a_fix_and_exit_code_1(command: InProcess, tmp_path: Path) -> None:
    (tmp_path / "phipack.toml").write_text(PROJECT.replace("version", "versoin"))
    done = command("doctor", expect=1)
    assert "FAIL  project file" in done.stdout
    assert "project file: did you mean 'version'?" in done.stdout
    assert "1 of" in done.stderr
    document = command("--json", "doctor", expect=1).document
    assert found(document)["project file"]["status"] == "fail"
    assert document["error"]["kind"] == "SetupError"


@pytest.mark.usefixtures("quick")
def test_a_missing_checkpoint_is_a_warning(command: InProcess, tmp_path: Path) -> None:
    (tmp_path / "phipack.toml").write_text(PROJECT)
    checks = found(command("--json", "doctor").document)
    assert checks["project file"]["status"] == "warn"
    assert "tiny 1.0.0, 2 cells; no checkpoint at checkpoint" in checks["project file"]["found"]


@pytest.mark.usefixtures("quick")
def test_what_is_no_registry_and_no_store_is_said(command: InProcess, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    checks = found(
        command("--json", "doctor", "--tracking-uri", "mlflow.example", "--store", "file/store", expect=1).document
    )
    assert checks["registry"]["status"] == checks["store"]["status"] == "fail"
    assert "is not an MLflow tracking URI" in checks["registry"]["found"]


def test_an_old_python_fails() -> None:
    assert machine.check_python((3, 10, 2)).status == "fail"
    assert machine.check_python().status == "ok"


def test_extras_are_compared_with_what_is_installed() -> None:
    checks = machine.check_extras(
        [
            Requirement("", "click", ">=8.1"),
            Requirement("build", "numpy", ">=99"),
            Requirement("registry", "no-such-package", ">=1"),
        ]
    )
    assert [(one.name, one.status) for one in checks] == [
        ("base install", "ok"),
        ("extra [build]", "warn"),
        ("extra [registry]", "warn"),
    ]
    assert "tested with >=99" in checks[1].found
    assert checks[2].found == "missing: no-such-package, for promote, rollback, history and stores on S3"
    assert checks[2].fix is not None
    assert "[registry]" in checks[2].fix
    assert machine.check_extras([Requirement("", "no-such-package", "")])[0].status == "fail"
    assert machine.check_extras([])[0].status == "warn"


def test_a_runtime_that_cannot_be_imported_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_runtime.py").write_text("raise ImportError('libgomp.so.1: cannot open shared object file')")
    (tmp_path / "killed_runtime.py").write_text("import os; os.kill(os.getpid(), 4)")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    checks = {
        one.name: one
        for one in machine.check_runtimes(
            [
                machine.Runtime("sound", "json", "click"),
                machine.Runtime("broken", "broken_runtime", "click"),
                machine.Runtime("killed", "killed_runtime", "click"),
                machine.Runtime("absent", "absent", "no-such-package"),
            ]
        )
    }
    assert set(checks) == {"sound", "broken", "killed"}
    assert checks["sound"].status == "ok"
    assert "libgomp.so.1" in checks["broken"].found
    assert "ends by signal 4" in checks["killed"].found
    assert checks["killed"].fix is not None


def test_optimums_environment_is_looked_at_and_not_created(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHIPACK_CACHE", str(tmp_path / "cache"))
    (check,) = machine.check_optimum()
    assert (check.name, check.status) == ("optimum, for phipack export", "ok")
    assert "transformers 4.57.6" in check.found
    assert f"not there yet: the first phipack export creates {tmp_path / 'cache'}" in check.found
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr("builders.optimum_export.environment.is_complete", lambda _: True)
    (check,) = machine.check_optimum()
    assert "not there yet" not in check.found


def test_disks_are_looked_at_once_each(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usage = namedtuple("usage", ("total", "used", "free"))  # noqa: PYI024 - as shutil's own
    for free, status in ((10**11, "ok"), (5 * 10**9, "warn"), (10**8, "fail")):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: usage(0, 0, free))
        checks = list(machine.check_disks([tmp_path, tmp_path / "not" / "there"]))
        assert {one.status for one in checks} == {status}
        assert len([one for one in checks if str(tmp_path) in one.found]) == 1


def test_a_registry_in_sqlite(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    uri = f"sqlite:///{path}"
    assert check_registry(uri).check.status == "ok"
    assert not path.exists()
    path.write_bytes(b"not a database at all")
    assert check_registry(uri).check.status == "warn"
    path.unlink()
    open_ledger(uri, FolderStore(tmp_path / "store")).mlflow.connect()
    assert check_registry(uri).check == Check("registry", "ok", f"{uri}: 0 models")


@pytest.fixture
def server() -> Iterator[Callable[[Answer], str]]:
    """Serve answers of a test's own; returns the URL."""
    servers = []

    def serve(answer: Answer) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answer(self)

            def log_message(self, *_: object) -> None:
                pass

        started = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=started.serve_forever, daemon=True).start()
        servers.append(started)
        return f"http://127.0.0.1:{started.server_port}"

    yield serve
    for one in servers:
        one.shutdown()
        one.server_close()


def answering(code: int, body: object, *, ahead_seconds: float = 0) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response_only(code)
        handler.send_header("Date", formatdate(time.time() + ahead_seconds, usegmt=True))
        handler.end_headers()
        handler.wfile.write(json.dumps(body).encode() if not isinstance(body, bytes) else body)

    return answer


@pytest.mark.parametrize(
    ("code", "body", "status", "words"),
    [
        (200, {"registered_models": [{"name": "phi.pixel-9"}]}, "ok", "has models"),
        (200, {}, "ok", "no model yet"),
        (200, b"<html>", "fail", "not as MLflow does"),
        (401, {}, "fail", "authentication required"),
        (403, {}, "fail", "may not read"),
        (404, {}, "fail", "HTTP 404"),
        (500, {}, "fail", "HTTP 500"),
    ],
)
def test_a_registry_on_a_server(
    server: Callable[[Answer], str], code: int, body: object, status: str, words: str
) -> None:
    done = check_registry(server(answering(code, body)))
    assert done.check.status == status
    assert words in done.check.found
    assert status == "ok" or done.check.fix
    assert done.clock is None or abs(done.clock.ahead_seconds) < 60


def test_a_server_gets_the_credentials_that_mlflow_would_send(
    server: Callable[[Answer], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str | None] = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        seen.append(handler.headers["Authorization"])
        answering(200, {})(handler)

    url = server(answer)
    check_registry(url)
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "abc")
    check_registry(url)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "alice")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    shown = check_registry(url.replace("//", "//bob:pass@")).check.found
    check_registry(url)
    assert seen == [None, "Bearer abc", "Basic Ym9iOnBhc3M=", "Basic YWxpY2U6c2VjcmV0"]
    assert "pass" not in shown


def test_a_redirect_is_named_and_gets_no_credentials(
    server: Callable[[Answer], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str | None] = []
    elsewhere = server(lambda handler: asked.append(handler.headers["Authorization"]))

    def redirect(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response_only(302)
        handler.send_header("Location", f"{elsewhere}/login")
        handler.end_headers()

    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "abc")
    check = check_registry(server(redirect)).check
    assert "redirects to another address (HTTP 302)" in check.found
    assert asked == []


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda _: itertools.repeat(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000), "without end"),
        (lambda _: [b"\x1b[2Jnothing like HTTP\r\n\r\n"], "does not answer"),
        (lambda _: [b"HTTP/1.1 200 OK\r\n" + b"X: 1\r\n" * 200 + b"\r\n"], "does not answer"),
    ],
)
def test_a_server_that_speaks_no_http_or_without_end(answer: Callable[[bytes], Iterable[bytes]], words: str) -> None:
    with raw_server(answer) as url:
        check = check_registry(url).check
    assert (check.status, words in check.found) == ("fail", True), check


def test_a_server_that_is_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    check = check_registry(f"http://127.0.0.1:{port}").check
    assert check.status == "fail"
    assert "Connection refused" in check.found


def test_a_clock_that_is_off_is_seen(server: Callable[[Answer], str]) -> None:
    done = check_registry(server(answering(200, {}, ahead_seconds=3600)))
    assert done.clock is not None
    check = check_clock([ClockReading("other", 1.0), done.clock])
    assert check.status == "fail"
    assert check.found.startswith(("1 h 00 min behind 127.0.0.1", "59 min"))
    assert check_clock([ClockReading("x", 90.0)]).status == "warn"
    assert check_clock([ClockReading("x", -3.0)]).status == "ok"
    assert check_clock([]).status == "ok"


def test_a_store_in_a_folder(tmp_path: Path) -> None:
    root = tmp_path / "store"
    assert "not there yet" in check_store(str(root)).check.found
    assert not root.exists()
    root.mkdir()
    assert check_store(str(root)).check.status == "ok"
    (tmp_path / "file").write_text("")
    assert check_store(str(tmp_path / "file" / "store")).check.status == "fail"
    assert check_store("ftp://x").check.status == "fail"


def test_a_store_that_may_not_be_written_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services.os, "access", lambda *_: False)  # as for another user; root may write everywhere
    check = check_store(str(tmp_path / "store")).check
    assert check.status == "fail"
    assert check.fix is not None
    assert f"chmod u+w {tmp_path}" in check.fix
    registry = check_registry(f"sqlite:///{tmp_path}/mlflow.db").check
    assert registry.status == "fail"
    assert registry.fix == f"chmod u+w {tmp_path}, or name another one with --tracking-uri"


def test_an_empty_file_where_a_disk_was_full_is_no_registry_yet(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").touch()
    check = check_registry(f"sqlite:///{tmp_path}/mlflow.db").check
    assert (check.status, "not there yet" in check.found) == ("ok", True)


def test_a_process_that_is_not_started_is_no_fault_of_the_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(machine.subprocess, "Popen", refuse)
    checks = list(machine.check_runtimes())
    assert checks
    for one in checks:
        assert (one.status, "can't be started: Cannot allocate memory" in one.found) == ("fail", True)
        assert "force-reinstall" not in (one.fix or "")
