"""Real HTTP servers for a bundle's folder: a correct one, and servers with one fault each."""

from __future__ import annotations

import hashlib
import os
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

# Answers a GET itself and returns True, or returns False: the folder then answers.
Fault = Callable[[SimpleHTTPRequestHandler], bool]


class FolderHandler(SimpleHTTPRequestHandler):
    """Serves a folder, with a fault, and records the requests. It has no ranges: Python's own server has none."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __init__(self, *args: Any, fault: Fault | None, asked: list[str], **kwargs: Any) -> None:
        self.fault, self.asked = fault, asked
        super().__init__(*args, **kwargs)

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.fault is None or not self.fault(self):
            self.serve()

    def serve(self) -> None:
        """Answer correctly."""
        super().do_GET()

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:
            self.close_connection = True  # the client closed the connection

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


class RangeHandler(FolderHandler):
    """Serves ranges too, with an ETag for each file, as CDNs and S3 do."""

    def serve(self) -> None:
        path = Path(self.translate_path(self.path))
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if not path.is_file():
            self.send_error(404)
            return
        stat = path.stat()
        tag = '"' + hashlib.sha256(f"{stat.st_mtime_ns} {stat.st_size}".encode()).hexdigest()[:16] + '"'
        begin, end = 0, stat.st_size
        if asked and self.headers.get("If-Range", tag) == tag:
            begin, end = int(asked[1]), min(int(asked[2]) + 1, end)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{stat.st_size}")
        else:
            self.send_response(200)
        self.send_header("ETag", tag)
        self.send_header("Content-Length", str(end - begin))
        self.end_headers()
        with path.open("rb") as stream:
            self.wfile.flush()
            while begin < end:
                begin += os.sendfile(self.connection.fileno(), stream.fileno(), begin, end - begin)


@contextmanager
def serving(
    folder: Path, fault: Fault | None = None, asked: list[str] | None = None, kind: type[FolderHandler] = FolderHandler
) -> Iterator[str]:
    """Serve a folder on a free port and yield its URL."""
    handler = partial(kind, directory=str(folder), fault=fault, asked=[] if asked is None else asked)
    with running(handler) as port:
        yield f"http://127.0.0.1:{port}"


@contextmanager
def running(handler: Callable[..., BaseHTTPRequestHandler], tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """Run a server on a free port and yield the port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def on(path: str, respond: Callable[[SimpleHTTPRequestHandler], None]) -> Fault:
    """Return a fault for one path, whatever the query."""

    def fault(handler: SimpleHTTPRequestHandler) -> bool:
        if handler.path.split("?")[0] != path:
            return False
        respond(handler)
        return True

    return fault


def answering(status: int, headers: dict[str, str], body: bytes = b"") -> Callable[[SimpleHTTPRequestHandler], None]:
    """Answer with this status, these headers and this body."""

    def respond(handler: SimpleHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.wfile.write(body)

    return respond


def times(count: int, fault: Fault) -> Fault:
    """Return a fault that applies to the first `count` requests only."""
    left = [count]
    alone = threading.Lock()

    def passing(handler: SimpleHTTPRequestHandler) -> bool:
        with alone:
            met = left[0] > 0 and fault(handler)
            left[0] -= met
        return met

    return passing


def after(bytes_: int, fault: Fault) -> Fault:
    """Return a fault for ranges that start at or after a byte."""

    def late(handler: SimpleHTTPRequestHandler) -> bool:
        asked = handler.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0]
        return int(asked) >= bytes_ and fault(handler)

    return late
