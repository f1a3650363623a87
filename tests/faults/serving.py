"""`phipack serve`, asked by a client: a process of its own, which no fault hits, and which ends the server."""

from __future__ import annotations

import hashlib
import http.client
import os
import signal
import socket
import time
import traceback
from pathlib import Path

from phipack.__main__ import main
from registry.catalog.documents import naming_hash
from registry.catalog.published_state import published_digests, read_published
from registry.catalog.signing import open_keys
from registry.store.protocol import Store, blob_path
from registry.store.uris import open_store
from targets.errors import PhipackError
from tests.faults.effects import disarm
from tests.faults.ground import Ground
from tests.faults.publishing import CATALOG, KEYS

LOG = Path("serve.log")
IMPORTS = ("registry.catalog.http_service", "uvicorn.lifespan.off", "uvicorn.loops.auto", "uvicorn.protocols.http.auto")
_TRIES = 3
_START_SECONDS = 60


def serve_a_client(ground: Ground) -> int:
    """Serve the case's catalog until a client has all its answers; 0 then."""
    return serve_from(open_store(str(CATALOG)), ground)


def serve_from(store: Store, _: Ground) -> int:
    """Serve a store until a client has all its answers; 0 then."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server, client = os.getpid(), os.fork()
    if not client:
        disarm()  # what the client reads of the store is none of the server's points
        os._exit(_client(port, store, server))
    code = main(["serve", "--store", store.uri, "--port", str(port), "--log-file", str(LOG)])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the client's may come when a fault has ended the server
    answered = _ended(client)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert answered != _WRONG, "the client got an answer that is wrong"
    return 0 if (code, answered) == (130, 0) else code


_WRONG, _NO_ANSWER = 3, 4


def _ended(client: int) -> int:
    """Return the client's exit code. One that still asks, though the server has ended, is ended, too."""
    for _ in range(200):
        found, status = os.waitpid(client, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(client, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(client, 0)[1])


def _paths(store: Store) -> list[str]:
    published = read_published(store, None)
    blobs = sorted(published_digests(store))[:3]
    folder, _, name = min(published.paths).rpartition("/")
    documents = [f"targets/{folder}/{naming_hash(published.files[min(published.paths)])}.{name}"]
    asked = ["health", "resolve?device=iPhone15%2C4", "metadata/timestamp.json", "metadata/1.root.json"]
    return ["/" + path for path in [*asked, *documents, *map(blob_path, blobs)]]


def _client(port: int, store: Store, server: int) -> int:
    """Ask for what the catalog has, then interrupt the server, also where the catalog can't be read. Return a code."""
    try:
        return _ask(port, _paths(store), server)
    except PhipackError:
        traceback.print_exc()
        return _WRONG
    finally:
        if os.getppid() == server:
            os.kill(server, signal.SIGINT)


def _ask(port: int, paths: list[str], server: int) -> int:
    """Ask for each path until it is answered whole. Return 0 where all were answered."""
    until = time.monotonic() + _START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
            break
        except OSError:
            if time.monotonic() > until or os.getppid() != server:
                return _NO_ANSWER
            time.sleep(0.01)
    return next((code for path in paths if (code := _answer(port, path))), 0)


def _answer(port: int, path: str) -> int:
    for _ in range(_TRIES):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException):
            continue  # cut off, and seen to be
        finally:
            connection.close()
        if answer.status == 503:
            continue
        if answer.status not in (200, 307):
            return _WRONG
        if "/blobs/" in path and answer.status == 200 and hashlib.sha256(body).hexdigest() != path[-64:]:
            return _WRONG
        return 0
    return _NO_ANSWER


def serve_again(ground: Ground) -> int:
    """The next server, which no fault hits."""
    return serve_a_client(ground)


def catalog_is_as_it_was(_: Ground) -> None:
    """What is served is whole, and nobody has changed it."""
    place = open_store(str(CATALOG))
    assert read_published(place, open_keys(KEYS)).tag is not None
    for digest in published_digests(place):
        with place.open_blob(digest) as blob:
            assert "sha256:" + hashlib.file_digest(blob, "sha256").hexdigest() == digest
