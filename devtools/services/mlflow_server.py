"""An MLflow tracking server as a team runs it: with a database, served artifacts, and optional accounts.

FOLDER/
  mlflow.log
  accounts.ini, accounts.db    with accounts: MLflow's settings of them, and they themselves
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from devtools.services.ports import free_ports, wait_until
from registry.ledger.served_stores import SERVED_STORES

ADMINISTRATOR = "admin"
_START_SECONDS = 120.0  # MLflow imports for 5 s, on a busy machine for a minute


@dataclass(frozen=True)
class MlflowServer:
    """A running server. `password`: the administrator's, if the server has accounts."""

    uri: str
    process: subprocess.Popen[bytes]
    password: str = field(default="", repr=False)


@dataclass(frozen=True)
class MlflowSettings:
    """The server's settings.

    `backend`: its database's URI; the database is migrated when the server starts.
    `artifacts`: a folder or `s3://BUCKET/PREFIX`.
    `environment`: the variables that give access to S3.
    `accounts`: use MLflow's own accounts, which have no permissions until they are granted. In a new folder, the
    administrator's account is created.
    `stores`: the URIs of the phipack stores that it serves.
    `workers`: its processes that answer; MLflow's default is 4.
    """

    backend: str
    artifacts: str
    environment: Mapping[str, str] = field(default_factory=dict)
    accounts: bool = False
    stores: tuple[str, ...] = ()
    workers: int = 1


@contextmanager
def running_mlflow(folder: Path, settings: MlflowSettings, *, port: int | None = None) -> Iterator[MlflowServer]:
    """Run a server. Raises `ServiceError` if it does not start."""
    folder.mkdir(parents=True, exist_ok=True)
    number = free_ports(1)[0] if port is None else port
    command = [sys.executable, "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={number}"]
    command += [f"--workers={settings.workers}", f"--artifacts-destination={settings.artifacts}"]
    environment = {
        **os.environ,
        **settings.environment,
        "MLFLOW_BACKEND_STORE_URI": settings.backend,  # not on the command line, where everybody can read the password
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # 2 processes, not 12
        "MLFLOW_DISABLE_TELEMETRY": "true",
        SERVED_STORES: " ".join(uri.replace(" ", "%20") for uri in settings.stores),
    }
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):  # the caller's may be this server's own
        environment.pop(name, None)
    password = ""
    if settings.accounts:
        command += ["--app-name=basic-auth"]
        password = secrets.token_hex(16)
        environment |= _accounts(folder, password)
    log = folder / "mlflow.log"
    with log.open("ab") as out:
        process = subprocess.Popen(command, env=environment, cwd=folder, stdout=out, stderr=out, start_new_session=True)
    server = MlflowServer(f"http://127.0.0.1:{number}", process, password)
    try:
        wait_until(lambda: _answers(server.uri), process, log, name="MLflow", seconds=_START_SECONDS)
        yield server
    finally:
        _stop(process)


def _accounts(folder: Path, password: str) -> Mapping[str, str]:
    """Write the settings of MLflow's accounts. Return the server's variables; the password is written to no file."""
    settings = folder / "accounts.ini"
    lines = (
        "[mlflow]",
        "default_permission = NO_PERMISSIONS",
        f"database_uri = sqlite:///{folder}/accounts.db",
        f"admin_username = {ADMINISTRATOR}",
        "auth_cache_ttl_seconds = 600",  # without the cache each request costs 0.3 s of hashing
    )
    settings.write_text("\n".join(lines) + "\n", "utf-8")
    return {
        "MLFLOW_AUTH_CONFIG_PATH": str(settings),
        "MLFLOW_AUTH_ADMIN_PASSWORD": password,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(16),
    }


def _answers(uri: str) -> bool:
    try:
        with urllib.request.urlopen(f"{uri}/health", timeout=2):  # noqa: S310 - our own address
            return True
    except OSError:
        return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server and the worker that it started: they have a session of their own."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(10)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue
    process.poll()
