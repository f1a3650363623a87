"""Which MLflow a command means: the default, the option, and what a URI says. Imports nothing of MLflow.

The default, on disk, in the home folder (`.phipack` in the project's folder):

    HOME/
      mlflow.db          MLflow's SQLite, unless another tracking URI is given
      mlflow.db.lock     held while versions are registered or channels moved

Evidence and manifests, the files of MLflow's runs, are in the store: STORE/mlflow/MODEL/RUN/artifacts/. Where a server
keeps the registry and the store is a folder, which the server may not reach, the server decides.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from registry.store.uris import DEFAULT_HOME
from targets.errors import RegistryError

RUNS_FOLDER = "mlflow"  # of a store
_PASSWORD = re.compile(r"(://[^/@:\s]*):[^\s'\"]*@")  # up to the last @: a password may have @ and / in it
_SECRET_PARAMETER = re.compile(
    r"([?&](?:password|passwd|token|sslpassword|X-Amz-[A-Za-z-]+)=)[^&\s'\"]*", re.IGNORECASE
)
_SQLITE = re.compile(r"sqlite(\+pysqlite)?:///")


def tracking_uri(given: str | None, home: Path = DEFAULT_HOME) -> str:
    """Return the URI to use: `given`, else `MLFLOW_TRACKING_URI`, else SQLite in `home`. Raises `RegistryError`."""
    uri = given or os.environ.get("MLFLOW_TRACKING_URI")
    if uri is None or not uri:
        uri = f"sqlite:///{os.path.abspath(home)}/mlflow.db"  # noqa: PTH100 - a link stays as given
    if _SQLITE.match(uri) and ("?" in uri or "%" in uri):
        raise RegistryError(f"{uri}: a SQLite URI can't have '?' or '%' in its path", fix="use another folder")
    if "://" not in uri:
        raise RegistryError(
            f"{without_password(uri)!r} is not an MLflow tracking URI",
            fix="use http(s)://SERVER, sqlite:///PATH or postgresql+psycopg2://USER@HOST/DATABASE",
        )
    return uri


def sqlite_path(uri: str) -> Path | None:
    """Return the path of the database where the URI is SQLite's, else None."""
    match = _SQLITE.match(uri)
    return None if match is None else Path(os.path.abspath(uri[match.end() :]))  # noqa: PTH100


def is_postgresql(uri: str) -> bool:
    """Return True where a tracking URI is a PostgreSQL database itself."""
    return uri.partition("://")[0].partition("+")[0] in ("postgresql", "postgres")


def artifact_location(uri: str, store_uri: str, model: str) -> str | None:
    """Return where a new experiment keeps the files of its runs; None where the tracking server decides.

    It is a URI of `artifact_plugin.py`, so that MLflow's pages show a bundle's files together with its evidence.
    """
    if uri.startswith("http") and store_uri.startswith("file:"):
        return None
    return f"phipack-{store_uri}/{RUNS_FOLDER}/{model}"


def without_password(text: str) -> str:
    """Return a URI, or a text with URIs in it, as messages may show it: passwords and tokens as ***."""
    return _SECRET_PARAMETER.sub(r"\1***", _PASSWORD.sub(r"\1:***@", text))
