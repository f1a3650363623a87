"""Which MLflow a command means: the default, the option, and what a URI says. Imports nothing of MLflow.

The default, on disk (paths below the working folder):

    .phipack/
      mlflow.db          MLflow's SQLite, unless another tracking URI is given
      mlflow.db.lock     held while versions are registered or channels moved

Evidence and manifests, the files of MLflow's runs, are in the store: STORE/mlflow/MODEL/RUN/artifacts/. Where a server
keeps the registry and the store is a folder, which the server may not reach, the server decides.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from targets.errors import RegistryError

DEFAULT_HOME = Path(".phipack")
RUNS_FOLDER = "mlflow"  # of a store
_SQLITE = re.compile(r"sqlite(\+pysqlite)?:///")


def tracking_uri(given: str | None, home: Path = DEFAULT_HOME) -> str:
    """Give the URI to use: the given one, else `MLFLOW_TRACKING_URI`, else SQLite in `home`. Raises `RegistryError`."""
    uri = given or os.environ.get("MLFLOW_TRACKING_URI")
    if uri is None or not uri:
        uri = f"sqlite:///{os.path.abspath(home)}/mlflow.db"  # noqa: PTH100 - a link stays as given
    if _SQLITE.match(uri) and ("?" in uri or "%" in uri):
        raise RegistryError(f"{uri}: a SQLite URI can't hold '?' or '%' in its path", fix="use another folder")
    if "://" not in uri:
        raise RegistryError(
            f"{uri!r} is not an MLflow tracking URI",
            fix="give http(s)://SERVER, sqlite:///PATH or postgresql+psycopg2://USER@HOST/DATABASE",
        )
    return uri


def sqlite_path(uri: str) -> Path | None:
    """Path of the database where the URI is SQLite's, else None."""
    match = _SQLITE.match(uri)
    return None if match is None else Path(os.path.abspath(uri[match.end() :]))  # noqa: PTH100


def artifact_place(uri: str, store_uri: str, model: str) -> str | None:
    """Where the files of a new experiment's runs are to lie; None where a tracking server decides.

    It is a URI of `artifact_plugin.py`, so that MLflow's pages show a bundle's files beside its evidence.
    """
    if uri.startswith("http") and store_uri.startswith("file:"):
        return None
    return f"phipack-{store_uri}/{RUNS_FOLDER}/{model}"


def without_password(uri: str) -> str:
    """The URI as messages may show it."""
    return re.sub(r"(://[^/@:]*):[^/@]*@", r"\1:***@", uri)
