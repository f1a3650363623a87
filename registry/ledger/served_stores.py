"""Which stores an MLflow server serves through the artifact plugin: those that its administrator names.

Any account of a server can name a URI, as a model version's source or an experiment's artifact location, and the server
reads it with its own rights. So a server serves a store only if the environment variable `PHIPACK_SERVED_STORES` names
it: URIs, separated by spaces or newlines; a space within one is written %20. Without it a server serves nothing.

    PHIPACK_SERVED_STORES="file:///srv/phipack/store s3://models/phipack"

A client reads with its user's own rights, and needs no such list.
"""

from __future__ import annotations

import os
import sys
import urllib.parse
from typing import Any

from targets.errors import StoreError

SERVED_STORES = "PHIPACK_SERVED_STORES"
_SERVER_VARIABLES = "_MLFLOW_SERVER_"  # `mlflow server` sets several for its workers and their jobs
_HTTP_SERVERS = ("gunicorn", "hypercorn", "mod_wsgi", "uvicorn", "uwsgi", "waitress")
_VERSION_FILES = "/model-versions/get-artifact"


def in_mlflow_server() -> bool:
    """True in a process of an MLflow server, and where that is in doubt.

    `mlflow server` marks its workers by environment variables. Its app can also be run directly, without them: then
    it was imported together with an HTTP server (MLflow's own criterion), or answers a request right now.
    """
    if any(name.startswith(_SERVER_VARIABLES) for name in os.environ):
        return True
    if "mlflow.server" not in sys.modules:
        return False
    return any(name in sys.modules for name in _HTTP_SERVERS) or _request() is not None


def require_served(store: str) -> None:
    """Refuse a store that this server's administrator has not named. Raises `StoreError`."""
    if store not in _served_stores():
        raise StoreError(
            f"this MLflow server does not serve the store {store}",
            fix=f"its administrator names it in the environment variable {SERVED_STORES} of the server",
        )


def require_requested(run: str) -> None:
    """Refuse a run's files except to a request for that run: MLflow has checked the account's right to read it.

    A version's source, or another run's artifact location, could name them for an account without that right. Raises
    `StoreError`.
    """
    request = _request()
    if request is None or request.path.endswith(_VERSION_FILES) or _requested_run(request) != run:
        raise StoreError(
            f"an MLflow server serves the files of run {run} only to requests that read that run",
            fix="name a bundle as a model version's source: phipack-STORE/sha256:…",
        )


def _served_stores() -> set[str]:
    """The URIs of the named stores, links followed and not. Raises `StoreError`."""
    found = set()
    for text in os.environ.get(SERVED_STORES, "").split():
        scheme, _, rest = text.partition("://")
        path = urllib.parse.unquote(rest).rstrip("/")
        if scheme == "s3" and path:
            found.add(f"s3://{path}")
        elif scheme == "file" and path.startswith("/"):
            real = os.path.realpath(path)
            found |= {"file://" + urllib.parse.quote(one) for one in (os.path.abspath(path), real)}  # noqa: PTH100
        else:
            raise StoreError(
                f"{SERVED_STORES} of this MLflow server: {text!r} is not a store's URI",
                fix="its administrator writes file:///ABSOLUTE/PATH or s3://BUCKET/PREFIX",
            )
    return found


def _request() -> Any:
    """The request that this thread answers for Flask, in which MLflow's handlers run; None where it answers none."""
    flask = sys.modules.get("flask")
    return flask.request if flask is not None and flask.has_request_context() else None


def _requested_run(request: Any) -> str | None:
    """The ID of the run whose files a request asks for, as MLflow's handlers take it."""
    return (request.args.get("run_id") or request.args.get("run_uuid")) if request.method == "GET" else None
