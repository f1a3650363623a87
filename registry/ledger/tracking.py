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
from registry.transfer.http_address import http_address_problem
from targets.errors import RegistryError
from targets.places import in_home
from targets.secrets import has_ambiguous_password, shown, without_login

RUNS_FOLDER = "mlflow"  # of a store
_SQLITE = re.compile(r"sqlite(\+pysqlite)?:///")
_FORMS = "http(s)://SERVER, sqlite:///PATH or postgresql+psycopg2://USER@HOST/DATABASE"
_SERVER = "run an MLflow server in front of it, and name that: mlflow server --backend-store-uri …"


def tracking_uri(given: str | None, home: Path = DEFAULT_HOME) -> str:
    """Return the URI to use: `given`, else `MLFLOW_TRACKING_URI`, else SQLite in `home`. Raises `RegistryError`."""
    uri = (os.environ.get("MLFLOW_TRACKING_URI") or None) if given is None else given
    if uri is None:
        uri = f"sqlite:///{os.path.abspath(home)}/mlflow.db"  # noqa: PTH100 - a link stays as given
    if (found := _problem(uri)) is not None:
        problem, fix = found
        raise RegistryError(problem, fix=fix)
    return uri


def sqlite_path(uri: str) -> Path | None:
    """Return the path of the database where the URI is SQLite's, else None."""
    match = _SQLITE.match(uri)
    return None if match is None else Path(os.path.abspath(uri[match.end() :]))  # noqa: PTH100


def is_postgresql(uri: str) -> bool:
    """Return True where a tracking URI is a PostgreSQL database itself."""
    return uri.partition("://")[0].partition("+")[0] == "postgresql"


def artifact_location(uri: str, store_uri: str, model: str) -> str | None:
    """Return where a new experiment keeps the files of its runs; None where the tracking server decides.

    It is a URI of `artifact_plugin.py`, so that MLflow's pages show a bundle's files together with its evidence.
    """
    if uri.startswith("http") and store_uri.startswith("file:"):
        return None
    return f"phipack-{store_uri}/{RUNS_FOLDER}/{model}"


def run_link(uri: str, run_id: str) -> str:
    """Return where a run is found: its page on a server, else its URI, as MLflow's own commands take it.

    It is printed and kept in reports: a login that the URI has is not in it.
    """
    return f"{without_login(uri).rstrip('/')}/#/runs/{run_id}" if uri.startswith("http") else f"runs:/{run_id}"


def _problem(uri: str) -> tuple[str, str] | None:
    """Return what is wrong with a tracking URI, and how to fix it."""
    if not uri.strip():
        return "the tracking URI is an empty text", f"name {_FORMS}; leave it out for the default"
    scheme, separator, _ = uri.partition("://")
    if not separator:
        return f"{shown(uri)!r} is not an MLflow tracking URI", _likely(uri)
    kind = scheme.partition("+")[0].lower()
    if kind in ("http", "https"):
        found = http_address_problem(uri)
        return None if found is None else (f"tracking URI: {found}", "write http(s)://HOST or http(s)://HOST:PORT/PATH")
    if kind == "sqlite":
        return _sqlite_problem(uri)
    return _database_problem(uri) if kind == "postgresql" else _unknown_kind(uri, scheme, kind)


def _unknown_kind(uri: str, scheme: str, kind: str) -> tuple[str, str]:
    if kind == "postgres":
        meant = f"postgresql+psycopg2://{uri.partition('://')[2]}"
        return f"{shown(uri)}: MLflow knows PostgreSQL by another scheme", f"did you mean {shown(meant)}?"
    if kind in ("mysql", "mariadb", "mssql"):
        return f"{shown(uri)}: phipack keeps no registry in this kind of database directly", _SERVER
    return f"{shown(uri)!r} is not a registry: the scheme {scheme!r} is unknown", f"use {_FORMS}"


def _likely(text: str) -> str:
    """Return the fix for a text without `://`."""
    if slip := re.fullmatch(r"(https?|sqlite|postgresql(?:\+\w+)?):/*(.*)", text, re.DOTALL):
        slashes = ":///" if slip[1] == "sqlite" else "://"
        return f"did you mean {shown(slip[1] + slashes + slip[2])}?"
    if re.fullmatch(r"[A-Za-z0-9.-]+:[0-9]+(/.*)?", text):
        return f"did you mean http://{text}? Otherwise use {_FORMS}"
    if text.endswith((".db", ".sqlite", ".sqlite3")):
        return f"did you mean sqlite:///{text}?"
    return f"use {_FORMS}"


def _sqlite_problem(uri: str) -> tuple[str, str] | None:
    match = _SQLITE.match(uri)
    path = None if match is None else uri[match.end() :]
    if path is None and (rest := uri.partition("://")[2]):
        return f"{shown(uri)}: a SQLite URI has three slashes before its path", f"did you mean sqlite:///{rest}?"
    if not path or path.startswith((":memory:", "file:")):
        problem = f"{uri}: a SQLite database in memory is lost when the command ends"
        return problem, "name a file: sqlite:///PATH/mlflow.db"
    if "?" in uri or "%" in uri:
        return f"{uri}: a SQLite URI can't have '?' or '%' in its path", "use another folder"
    if meant := in_home(path.lstrip("/")):
        return f"{uri}: only a shell knows ~", f"write the path itself: sqlite:///{meant}"
    return None


def _database_problem(uri: str) -> tuple[str, str] | None:
    if has_ambiguous_password(uri):
        problem = f"{shown(uri)}: the password has an @ in it, and drivers read what follows as the host"
        return problem, "write @ as %40 in the password, and / : ? # % as %2F %3A %3F %23 %25"
    try:
        import sqlalchemy
    except ImportError:  # `mlflow_connection.py` reports it
        return None
    try:
        address = sqlalchemy.make_url(uri)
    except (ValueError, sqlalchemy.exc.ArgumentError):  # its text repeats the URI
        return f"{shown(uri)} is not the address of a database: check host and port", f"use {_FORMS}"
    if address.port is not None and not 0 < address.port < 65536:
        return f"{shown(uri)}: {address.port} is not a port", "write a port of 1 to 65535, or none for 5432"
    if address.host and (address.host.strip() != address.host or " " in address.host):
        return f"{shown(uri)}: {address.host!r} is not a host", f"use {_FORMS}"
    return None
