"""An MLflow tracking server as a team has it: with a database behind it, serving artifacts. Its log: mlflow.log."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.services.ports import free_ports, wait_until

_START_SECONDS = 120.0  # MLflow imports for 5 s, on a busy machine for a minute


@dataclass(frozen=True)
class MlflowServer:
    """A running server."""

    uri: str
    process: subprocess.Popen[bytes]


@dataclass(frozen=True)
class MlflowSettings:
    """What the server stands on.

    `backend`: its database's URI, migrated when the server starts. `artifacts`: a folder or `s3://BUCKET/PREFIX`.
    `environment`: what reaches S3.
    """

    backend: str
    artifacts: str
    environment: Mapping[str, str] = field(default_factory=dict)


@contextmanager
def running_mlflow(folder: Path, settings: MlflowSettings, *, port: int | None = None) -> Iterator[MlflowServer]:
    """Run a server. Raises `ServiceError` where it does not start."""
    folder.mkdir(parents=True, exist_ok=True)
    number = free_ports(1)[0] if port is None else port
    command = [sys.executable, "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={number}", "--workers=1"]
    command += [f"--artifacts-destination={settings.artifacts}"]
    environment = {
        **os.environ,
        **settings.environment,
        "MLFLOW_BACKEND_STORE_URI": settings.backend,  # not on the command line, where everybody reads the password
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # 2 processes, not 12
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):  # the caller's may name this very server
        environment.pop(name, None)
    log = folder / "mlflow.log"
    with log.open("ab") as out:
        process = subprocess.Popen(command, env=environment, cwd=folder, stdout=out, stderr=out, start_new_session=True)
    server = MlflowServer(f"http://127.0.0.1:{number}", process)
    try:
        wait_until(lambda: _answers(server.uri), process, log, name="MLflow", seconds=_START_SECONDS)
        yield server
    finally:
        _stop(process)


def _answers(uri: str) -> bool:
    try:
        with urllib.request.urlopen(f"{uri}/health", timeout=2):  # noqa: S310 - our own address
            return True
    except OSError:
        return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server and the worker that it started: they are a session of their own."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(10)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue
    process.poll()
