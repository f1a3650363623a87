"""`make services` as a process: what it prints works, it ends as a whole, and the next run finds the same data."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from devtools.bundles import make_bundle
from devtools.services.ports import free_ports
from registry.ledger.ledger import open_ledger
from registry.store.uris import open_store
from tests.support.command_line import command_environment, result_of, run_in
from tests.support.registrations import entry

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Place:
    """A folder and ports of its own."""

    folder: Path
    mlflow: int
    s3: int
    postgresql: int

    @property
    def command(self) -> list[str]:
        ports = [f"--mlflow-port={self.mlflow}", f"--s3-port={self.s3}", f"--postgresql-port={self.postgresql}"]
        return [sys.executable, "-m", "devtools.services", f"--folder={self.folder}", *ports]

    @property
    def environment(self) -> dict[str, str]:
        """What a shell has that sources the file."""
        script = '. "$0" && exec env -0'
        command = ["env", "-i", "sh", "-c", script, str(self.folder / "environment")]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        pairs = dict(pair.split("=", 1) for pair in done.stdout.rstrip("\0").split("\0"))
        return {name: value for name, value in pairs.items() if name.startswith(("MLFLOW_", "PHIPACK_", "AWS_"))}


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    """Not in pytest's own folder: only its owner may enter that, and PostgreSQL may be another user."""
    with tempfile.TemporaryDirectory(prefix="phipack-services-") as folder:
        Path(folder).chmod(0o711)
        yield Place(Path(folder) / "services", *free_ports(3))


@contextmanager
def running(place: Place) -> Iterator[subprocess.Popen[str]]:
    """Run it until it says that it is ready."""
    process = subprocess.Popen(
        place.command,
        cwd=ROOT,
        env=command_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        said = ""
        while "or: source" not in said:
            line = process.stdout.readline()
            assert line, process.communicate()[1]
            said += line
        for line in (place.folder / "environment").read_text().splitlines():
            assert line in said
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


def descendants(ancestor: int) -> list[int]:
    rows = [tuple(map(int, line.split())) for line in _ps("pid=,ppid=").splitlines()]
    found = [ancestor]
    for one in found:
        found += [pid for pid, parent in rows if parent == one]
    return found[1:]


def left_of(pids: Sequence[int], *, within_seconds: float = 5) -> list[str]:
    """Which of them live still: PostgreSQL's and MLflow's own workers take a moment."""
    until = time.monotonic() + within_seconds
    while True:
        lines = _ps("pid=,stat=,args=").splitlines()
        left = [line for line in lines if int(line.split()[0]) in pids and not line.split()[1].startswith("Z")]
        if not left or time.monotonic() > until:
            return left
        time.sleep(0.1)


def _ps(columns: str) -> str:
    return subprocess.run(["ps", "-A", "-o", columns], check=True, capture_output=True, text=True).stdout


def test_a_release_outlives_a_run_and_each_run_ends_as_a_whole(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = make_bundle(tmp_path / "made")
    with running(place) as process:
        for name, value in place.environment.items():
            monkeypatch.setenv(name, value)
        store = open_store(os.environ["PHIPACK_STORE"])
        store.add_bundle(bundle)
        open_ledger(None, store).register(entry(bundle))
        run_in(tmp_path, place.environment)("promote", "phi:1.0.0", "--to", "production")
        children = descendants(process.pid)
        assert len(children) >= 3
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        assert left_of(children) == []

    before = place.environment
    with running(place) as process:
        assert place.environment == before
        phipack = run_in(tmp_path, place.environment)
        phipack("fetch", "phi:production@iphone-15", "-o", "fetched")
        assert (tmp_path / "fetched" / "model.gguf").read_bytes() == (tmp_path / "made" / "model.gguf").read_bytes()
        assert [move["state"] for move in result_of(phipack("--json", "history", "phi"))["moves"]] == ["done"]
        children = descendants(process.pid)
        os.kill(child_called(children, "mlflow server"), signal.SIGKILL)
        assert process.wait(30) == 1
        assert process.stderr is not None
        assert f"services: MLflow ended with -9; its log is in {place.folder}" in process.stderr.read()
        assert left_of(children) == []


def child_called(children: Sequence[int], words: str) -> int:
    """The first process of a server; its workers may have its name too."""
    rows = [line.split(maxsplit=1) for line in _ps("pid=,args=").splitlines()]
    return min(int(pid) for pid, called in rows if int(pid) in children and words in called)


@pytest.mark.parametrize("service", ["mlflow", "s3", "postgresql"])
def test_port_in_use_is_reported_before_any_server_starts(place: Place, service: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        wanted = Place(place.folder.with_name("other"), **({"mlflow": 0, "s3": 0, "postgresql": 0} | {service: port}))
        done = subprocess.run(wanted.command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert f"port {port} is not available (Address already in use); choose another one: " in line
    assert line.endswith(f"--{service}-port PORT")
    assert not wanted.folder.exists()
