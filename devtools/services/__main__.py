"""`make services`: runs PostgreSQL, an S3 server and MLflow on this machine until Ctrl-C, as a team would run them.

    .phipack/services/
      postgresql/…     databases, and the password that the first run creates
      seaweedfs/…      objects, and the keys that the first run creates
      mlflow/          its log

A second run uses the same data. The variables to export are printed, and written to `.phipack/services/environment`:

    source .phipack/services/environment
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from devtools.services.mlflow_server import MlflowSettings, running_mlflow
from devtools.services.ports import ServiceError
from devtools.services.postgresql import running_postgresql
from devtools.services.seaweedfs import running_seaweedfs

BUCKET = "phipack"


def main() -> int:
    """Run the services."""
    parser = argparse.ArgumentParser(
        prog="make services", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path(".phipack/services"))
    parser.add_argument("--mlflow-port", type=int, default=5000)
    parser.add_argument("--s3-port", type=int, default=8333)
    parser.add_argument("--postgresql-port", type=int, default=5433)
    asked = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGINT):  # a shell ignores Ctrl-C for background jobs
        signal.signal(number, signal.default_int_handler)
    folder = asked.folder.resolve()
    try:
        _require_free(
            {
                "--postgresql-port": asked.postgresql_port,
                "--s3-port": asked.s3_port,
                "--mlflow-port": asked.mlflow_port,
            }
        )
        with ExitStack() as stack:
            print("PostgreSQL …", flush=True)
            postgresql = stack.enter_context(running_postgresql(folder / "postgresql", port=asked.postgresql_port))
            backend = postgresql.make_database("mlflow")
            print("SeaweedFS (S3) …", flush=True)
            s3 = stack.enter_context(running_seaweedfs(folder / "seaweedfs", port=asked.s3_port))
            s3.make_bucket(BUCKET)
            print("MLflow …", flush=True)
            store = f"s3://{BUCKET}/store"
            settings = MlflowSettings(backend, f"s3://{BUCKET}/mlflow", s3.environment, stores=(store,))
            mlflow = stack.enter_context(running_mlflow(folder / "mlflow", settings, port=asked.mlflow_port))
            environment = {
                "MLFLOW_TRACKING_URI": mlflow.uri,
                "PHIPACK_STORE": store,
                **s3.environment,
            }
            _announce(folder / "environment", environment)
            return _watch({"PostgreSQL": postgresql.process, "SeaweedFS": s3.process, "MLflow": mlflow.process}, folder)
    except KeyboardInterrupt:
        print("\nended", flush=True)
        return 0
    except ServiceError as error:
        print(f"services: {error}", file=sys.stderr)
    except OSError as error:
        print(f"services: {error.filename or folder}: {error.strerror or error}", file=sys.stderr)
    return 1


def _require_free(ports: Mapping[str, int]) -> None:
    """Check that all ports are free before any server starts. Raises `ServiceError`."""
    with ExitStack() as held:
        for option, number in ports.items():
            try:
                held.enter_context(socket.create_server(("127.0.0.1", number)))
            except OSError as error:
                raise ServiceError(
                    f"port {number} is not available ({os.strerror(error.errno or 0)}); choose another one:"
                    f" {sys.executable} -m devtools.services {option} PORT"
                ) from error


def _announce(path: Path, environment: Mapping[str, str]) -> None:
    """Print the variables to export, and write them to a file for `source`."""
    lines = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    path.touch(0o600)
    path.write_text("\n".join(lines) + "\n", "utf-8")
    print("\nReady, until Ctrl-C. In another shell:\n", flush=True)
    print("\n".join(lines), flush=True)
    print(f"\nor: source {path}", flush=True)


def _watch(processes: Mapping[str, subprocess.Popen[bytes]], folder: Path) -> int:
    """Wait until one of the servers ends by itself, and return 1."""
    while True:
        for name, process in processes.items():
            if process.poll() is not None:
                print(f"services: {name} ended with {process.returncode}; its log is in {folder}", file=sys.stderr)
                return 1
        time.sleep(0.5)


if __name__ == "__main__":
    sys.exit(main())
