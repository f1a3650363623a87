"""Connecting to MLflow: a client that says nothing and fails soon. Only `mlflow_client.py` uses it.

Its CAs and its proxy are those of `network_settings.py`. Its tries and timeouts are its own: the lease on a model's
channels counts on their sum (`lease.py`).

MLflow's defaults suit a notebook: it logs migrations to standard error, shows progress bars, reports its use to its
makers, and tries an unreachable server for minutes. What the environment sets explicitly is left as it is.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from registry.files.staging import disk_errors
from registry.files.temporary import remove_left, temporary_folder
from registry.ledger.tracking import sqlite_path
from registry.transfer.network_settings import ca_file, proxy_for
from registry.transfer.pace import SelfPacedResponse
from targets.errors import RegistryError, SetupError
from targets.installation import install_command

if TYPE_CHECKING:
    from mlflow import MlflowClient

_REQUEST_SECONDS = 20.0  # where MLFLOW_HTTP_REQUEST_TIMEOUT names no other time
_ENVIRONMENT = {
    "MLFLOW_CONFIGURE_LOGGING": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": f"{_REQUEST_SECONDS:.0f}",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}
_CA_VARIABLE = "MLFLOW_TRACKING_SERVER_CERT_PATH"
_ARTIFACTS_VARIABLE = "_MLFLOW_SERVER_ARTIFACT_ROOT"  # mlflow/tracking/_tracking_service/utils.py
_NOT_IN_SQL = frozenset("'\":\\")
_given_cas: str | None = None
_importing = threading.Lock()  # two threads in the middle of its circles of imports get stuck, or half a module


def load(uri: str) -> type[MlflowClient]:
    """Import MLflow, which takes seconds, and return its client's class: before a lock is held, so that none waits.

    Raises:
        RegistryError: MLflow is not installed, or its proxy is of no use.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if uri.startswith("http"):
        _set_network(uri)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's own imports: nothing that a user could change
        try:
            with _importing:
                from mlflow import MlflowClient

                _hold_to_pace()
        except ImportError as error:
            raise _missing(error) from error
    for noisy in ("mlflow", "alembic", "sqlalchemy.pool"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)  # it logs errors with tracebacks, and raises them too
    return MlflowClient


def connect(uri: str) -> MlflowClient:
    """Return a client for tracking and registry. A new database is created and migrated (2 s).

    Raises:
        RegistryError: MLflow is not installed, or the folder of a SQLite file can't be made. What MLflow and SQLAlchemy
            raise is the caller's to wrap.
    """
    kind = load(uri)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its mappers
        with _artifacts_in_sql():
            if (path := sqlite_path(uri)) is not None:
                _make_once(kind, Path(os.path.realpath(path)))
            if not uri.startswith("http"):
                has_tables(uri)  # MLflow itself would try a damaged or unreachable database for 100 s
            client = kind(tracking_uri=uri, registry_uri=uri)
            client.search_registered_models(max_results=1)  # so that an error comes here and not half-way
        return client


def _is_made(path: Path) -> bool:
    """Return False where there is no file, or an empty one."""
    return path.exists() and path.stat().st_size > 0


def _make_once(kind: type[MlflowClient], path: Path) -> None:
    """Make a SQLite registry, where there is none, elsewhere, and put it in its place when it is whole.

    MLflow goes through all versions of its schema, and SQLite keeps each step at once: a registry that was stopped
    half-way is refused by MLflow from then on. Whoever calls this keeps others of phipack out.
    """
    if _is_made(path):
        remove_left(f".{path.name}", path.parent)
        return
    with temporary_folder(f".{path.name}", path.parent, kind=RegistryError) as folder, disk_errors(path, RegistryError):
        made, whole = folder / "made", folder / "whole"
        kind(tracking_uri=f"sqlite:///{made}", registry_uri=f"sqlite:///{made}").search_registered_models(max_results=1)
        try:
            with closing(sqlite3.connect(made)) as source, closing(sqlite3.connect(whole)) as target:
                source.backup(target)  # MLflow keeps its own open
        except sqlite3.Error as error:
            fix = "check that its disk has space left, then try again"
            raise RegistryError(f"{path} can't be made: {error}", fix=fix) from error
        if not _is_made(path):
            whole.replace(path)


@contextmanager
def _artifacts_in_sql() -> Iterator[None]:
    """Let MLflow make its default experiment, which phipack does not use, in whatever folder this is.

    It writes the folder's path into SQL as Python's `repr` does: a quote ends the text, a colon names a parameter.
    Where the path has one, MLflow reads it from its variable, as a URI that has none.
    """
    place = Path.cwd() / "mlruns"
    if _ARTIFACTS_VARIABLE in os.environ or _NOT_IN_SQL.isdisjoint(str(place)):
        yield
        return
    os.environ[_ARTIFACTS_VARIABLE] = place.as_uri()
    try:
        yield
    finally:
        del os.environ[_ARTIFACTS_VARIABLE]


def _set_network(uri: str) -> None:
    """Let MLflow's client trust the CAs that downloads and S3 trust. Raises `RegistryError` for a proxy of no use."""
    global _given_cas  # noqa: PLW0603 - what this process has put into its environment
    try:
        proxy_for(uri)  # its client takes the same proxy by itself
        cas = ca_file()
    except SetupError as error:
        raise RegistryError(f"MLflow at {uri} can't be reached: {error.problem}", fix=error.fix) from error
    insecure = os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1")
    if os.environ.get(_CA_VARIABLE) not in (None, _given_cas) or insecure or cas is None:
        return
    os.environ[_CA_VARIABLE] = _given_cas = cas


def _hold_to_pace() -> None:
    """Hold the answers of MLflow's client to a least rate (`pace.py`), which it has no setting for.

    A request that a slow server draws out would outlast what the lease allows for it. Raises `RegistryError`.
    """
    from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
    from urllib3.connection import HTTPConnection, HTTPSConnection

    try:
        from mlflow.utils import request_utils

        usual = request_utils.TCPKeepAliveHTTPAdapter
    except (AttributeError, ImportError) as error:
        raise unknown_mlflow(error) from error
    if issubclass(usual, _PacedAdapter):
        return
    plain = type("PacedConnection", (HTTPConnection,), {"response_class": _Answer})
    secure = type("PacedSecureConnection", (HTTPSConnection,), {"response_class": _Answer})
    _PacedAdapter.pools = {
        "http": type("PacedPool", (HTTPConnectionPool,), {"ConnectionCls": plain}),
        "https": type("PacedSecurePool", (HTTPSConnectionPool,), {"ConnectionCls": secure}),
    }
    vars(request_utils)["TCPKeepAliveHTTPAdapter"] = type("PacedAdapter", (_PacedAdapter, usual), {})


class _Answer(SelfPacedResponse):
    def pace_seconds(self) -> float:
        """Return MLflow's timeout: a user may have named a longer one for a slow server."""
        named = os.environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT", "")
        return float(named) if named.isdecimal() and int(named) else _REQUEST_SECONDS


class _PacedAdapter:
    """What is mixed into MLflow's adapter for requests: pools of connections of ours."""

    pools: ClassVar[dict[str, type]] = {}

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options)  # type: ignore[misc]  # of MLflow's adapter
        self.poolmanager.pool_classes_by_scheme = self.pools  # type: ignore[attr-defined]

    def proxy_manager_for(self, *args: Any, **options: Any) -> Any:
        manager = super().proxy_manager_for(*args, **options)  # type: ignore[misc]
        manager.pool_classes_by_scheme = self.pools
        return manager


def has_tables(uri: str) -> bool:
    """Return True where the database at `uri` has tables. What SQLAlchemy raises is the caller's to wrap."""
    try:
        import sqlalchemy
    except ImportError as error:
        raise _missing(error) from error
    engine = sqlalchemy.create_engine(uri)
    try:
        return bool(sqlalchemy.inspect(engine).get_table_names())
    finally:
        engine.dispose()


def unknown_mlflow(error: Exception) -> RegistryError:
    """Return the error for a version of MLflow that no longer has what phipack uses of its inside."""
    from mlflow import __version__

    return RegistryError(
        f"MLflow {__version__} is not known to phipack, which uses what it no longer has: {error}",
        fix=f"install the versions that phipack was tested with: {install_command('registry')} -c constraints.txt",
    )


def _missing(error: ImportError) -> RegistryError:
    return RegistryError(f"MLflow can't be imported: {error}", fix=install_command("registry"))
