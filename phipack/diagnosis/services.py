"""Checks of the registry and the store, and of the clock against theirs. Nothing is created, in either.

A registry is asked as MLflow's REST API, SQLite or PostgreSQL allow, without importing MLflow.
"""

from __future__ import annotations

import base64
import http.client
import os
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phipack.diagnosis.check import Check, failed
from phipack.diagnosis.machine import existing_parent
from registry.ledger.postgresql_login import connect_arguments
from registry.ledger.sqlite_reader import SqliteReader, has_known_schema
from registry.ledger.tracking import sqlite_path
from registry.store.folder import FolderStore
from registry.store.uris import open_store
from registry.transfer.header_values import http_date
from registry.transfer.network_settings import proxy_for, tls_context
from registry.transfer.pace import SelfPacedResponse
from targets.errors import PhipackError
from targets.formatting import duration
from targets.installation import install_command
from targets.secrets import without_secrets
from targets.strict_json import MalformedJsonError, parse_json

TIMEOUT_SECONDS = 10.0
SLOW_CLOCK_SECONDS = 60.0
WRONG_CLOCK_SECONDS = 900.0  # S3 refuses requests that are 15 minutes off
_ANY_MODEL = "/api/2.0/mlflow/registered-models/search?max_results=1"
_START = "start it, or name another one with --tracking-uri"
_UNAUTHORIZED, _FORBIDDEN = 401, 403
_REDIRECTS = (301, 302, 303, 307, 308)


@dataclass(frozen=True)
class ClockReading:
    """How far this machine's clock is ahead of a server's, in seconds."""

    server: str
    ahead_seconds: float


@dataclass(frozen=True)
class ServiceCheck:
    """A check of a service, and its clock where it has shown it."""

    check: Check
    clock: ClockReading | None = None


def check_registry(uri: str) -> ServiceCheck:
    """Look whether the registry answers, and whether these credentials may read it."""
    path, address = sqlite_path(uri), without_secrets(uri)
    if path is not None:
        return ServiceCheck(_check_sqlite(path, address))
    if uri.startswith(("http://", "https://")):
        return _check_server(uri.rstrip("/"), address)
    if uri.startswith("postgresql"):
        return _check_postgresql(uri, address)
    return ServiceCheck(Check("registry", "warn", f"{address}: this kind is not checked", None))


def _check_sqlite(path: Path, shown: str) -> Check:
    writable = f"chmod u+w {path} {path.parent}"
    if not path.exists() or not path.stat().st_size:  # empty where the disk was full when it was made
        folder = existing_parent(path.parent)
        if os.access(folder, os.W_OK):
            return Check("registry", "ok", f"{shown}: not there yet; phipack release creates it")
        fix = f"chmod u+w {folder}, or name another one with --tracking-uri"
        return Check("registry", "fail", f"{shown}: not there, and {folder} can't be written", fix)
    if not has_known_schema(path):
        return Check(
            "registry", "warn", f"{shown}: not MLflow's, or of an MLflow that phipack was not tested with", None
        )
    try:
        count = len(SqliteReader(path).models())
    except PhipackError as error:
        return failed("registry", error)
    if not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)):
        return Check("registry", "warn", f"{shown}: {count} models; can't be written by this user", writable)
    return Check("registry", "ok", f"{shown}: {count} models")


def _check_server(uri: str, shown: str) -> ServiceCheck:
    try:
        with _opened(uri + _ANY_MODEL) as answer:
            clock = _clock(uri, answer.headers.get("Date"))
            body = parse_json(answer.read(10**6), ours=False)
    except urllib.error.HTTPError as error:
        return ServiceCheck(_refused(error.code, shown), _clock(uri, error.headers.get("Date")))
    except PhipackError as error:
        return ServiceCheck(failed("registry", error))
    except MalformedJsonError:
        return ServiceCheck(Check("registry", "fail", f"{shown}: answers, but not as MLflow does", _START))
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        return ServiceCheck(Check("registry", "fail", f"{shown}: does not answer: {reason}", _START))
    has_models = isinstance(body, dict) and bool(body.get("registered_models"))
    return ServiceCheck(Check("registry", "ok", f"{shown}: {'has models' if has_models else 'no model yet'}"), clock)


def _refused(code: int, shown: str) -> Check:
    if code == _UNAUTHORIZED:
        fix = "export MLFLOW_TRACKING_USERNAME=… MLFLOW_TRACKING_PASSWORD=…, or MLFLOW_TRACKING_TOKEN=…"
        return Check("registry", "fail", f"{shown}: authentication required", fix)
    if code == _FORBIDDEN:
        return Check("registry", "fail", f"{shown}: this account may not read models", "ask its administrator")
    if code in _REDIRECTS:
        found = f"{shown}: redirects to another address (HTTP {code}), a login or a new place"
        return Check("registry", "fail", found, "open it in a browser, and name the address that answers itself")
    return Check("registry", "fail", f"{shown}: answers with HTTP {code}", _START)


def _opened(url: str) -> Any:
    """Open a URL with MLflow's credentials from the environment."""
    parts = urllib.parse.urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    request = urllib.request.Request(parts._replace(netloc=host).geturl())  # noqa: S310 - http(s) alone
    name = urllib.parse.unquote(parts.username or "") or os.environ.get("MLFLOW_TRACKING_USERNAME")
    password = urllib.parse.unquote(parts.password or "") or os.environ.get("MLFLOW_TRACKING_PASSWORD", "")
    if name:
        request.add_header("Authorization", "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode())
    elif token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        request.add_header("Authorization", f"Bearer {token}")
    return _open(request, os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH"))


def _open(request: urllib.request.Request, more_cas: str | None = None) -> Any:
    """Send a request as downloads, S3 and MLflow do: with the same CAs and proxy."""
    url = request.full_url
    context = tls_context()
    if more_cas and Path(more_cas).is_file():
        context.load_verify_locations(more_cas)
    proxy = proxy_for(url)
    proxies = {} if proxy is None else {urllib.parse.urlsplit(url).scheme: proxy}
    handlers = (urllib.request.ProxyHandler(proxies), _Plain(), _Secure(context=context), _NoRedirects())
    return urllib.request.build_opener(*handlers).open(request, timeout=TIMEOUT_SECONDS)


class _Answer(SelfPacedResponse):
    def pace_seconds(self) -> float:
        return TIMEOUT_SECONDS


class _PlainConnection(http.client.HTTPConnection):
    response_class = _Answer


class _SecureConnection(http.client.HTTPSConnection):
    response_class = _Answer


class _Plain(urllib.request.HTTPHandler):
    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_PlainConnection, request)


class _Secure(urllib.request.HTTPSHandler):
    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__(context=context)
        self._trust = context

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_SecureConnection, request, context=self._trust)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        """Follow none: `urllib` would send the credentials along."""


def _check_postgresql(uri: str, shown: str) -> ServiceCheck:
    try:
        import psycopg2
    except ImportError:
        found = f"{shown}: psycopg2 is not installed"
        return ServiceCheck(Check("registry", "fail", found, install_command("registry")))
    try:
        arguments = connect_arguments(uri)  # SQLAlchemy's reading of the URI, which the registry itself connects by
        connection = psycopg2.connect(**{**arguments, "connect_timeout": TIMEOUT_SECONDS})
        try:
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT extract(epoch FROM clock_timestamp()), to_regclass('alembic_version') IS NOT NULL"
                )
                row = cursor.fetchone()
        finally:
            connection.close()
    except psycopg2.Error as error:
        reason = without_secrets((str(error).strip().splitlines() or ["no message"])[-1], uri)
        return ServiceCheck(Check("registry", "fail", f"{shown}: does not answer: {reason}", _START))
    seconds, is_mlflow = row if row is not None else (time.time(), False)
    found = f"{shown}: answers" if is_mlflow else f"{shown}: not there yet; phipack release creates it"
    return ServiceCheck(Check("registry", "ok", found), ClockReading("PostgreSQL", time.time() - float(seconds)))


def check_store(location: str) -> ServiceCheck:
    """Look whether the store can be written: in a folder that exists and on S3 by a small file, which is removed."""
    try:
        store = open_store(location)
        if isinstance(store, FolderStore) and not store.root.exists():
            return ServiceCheck(_check_missing_folder(store.root))
        store.check_writable()
    except PhipackError as error:
        return ServiceCheck(failed("store", error), _s3_clock(location))
    return ServiceCheck(Check("store", "ok", f"{store.uri}: can be written"), _s3_clock(location))


def _check_missing_folder(root: Path) -> Check:
    folder = existing_parent(root)
    if folder.is_dir() and os.access(folder, os.W_OK):
        return Check("store", "ok", f"{root}: not there yet; phipack release creates it")
    fix = f"chmod u+w {folder}, or name another one with --store"
    return Check("store", "fail", f"{root}: not there, and {folder} can't be written", fix)


def _s3_clock(location: str) -> ClockReading | None:
    """Ask S3's server for the time, without credentials: a refusal has a date too."""
    if not location.startswith("s3://"):
        return None
    asked = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "https://s3.amazonaws.com"
    try:
        with _open(urllib.request.Request(asked, method="HEAD")) as answer:  # noqa: S310 - the user's endpoint
            return _clock(asked, answer.headers.get("Date"))
    except urllib.error.HTTPError as error:
        return _clock(asked, error.headers.get("Date"))
    except (OSError, ValueError, http.client.HTTPException, PhipackError):
        return None


def _clock(server: str, date: str | None) -> ClockReading | None:
    if (said := http_date(date)) is None:
        return None
    ahead = time.time() - said.timestamp()
    return ClockReading(urllib.parse.urlsplit(server).netloc.rpartition("@")[2], ahead)


def check_clock(readings: list[ClockReading]) -> Check:
    """Compare this machine's clock with the servers': signatures and catalogs expire by it."""
    if not readings:
        return Check("clock", "ok", "no server to compare it with")
    worst = max(readings, key=lambda one: abs(one.ahead_seconds))
    off = abs(worst.ahead_seconds)
    found = f"{duration(off)} {'ahead of' if worst.ahead_seconds > 0 else 'behind'} {worst.server}"
    if off < SLOW_CLOCK_SECONDS:
        return Check("clock", "ok", found)
    return Check("clock", "fail" if off >= WRONG_CLOCK_SECONDS else "warn", found, "timedatectl set-ntp true")
