"""Real HTTP servers for a bundle's folder: a good one, and ones with a fault each."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

# Handles a GET itself and gives True, or leaves it to the folder.
Fault = Callable[[SimpleHTTPRequestHandler], bool]


class FolderHandler(SimpleHTTPRequestHandler):
    """Serves a folder, with a fault, and remembers what was asked for."""

    def __init__(self, *args: Any, fault: Fault | None, asked: list[str], **kwargs: Any) -> None:
        self.fault, self.asked = fault, asked
        super().__init__(*args, **kwargs)

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.fault is None or not self.fault(self):
            super().do_GET()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def serving(folder: Path, fault: Fault | None = None, asked: list[str] | None = None) -> Iterator[str]:
    """Serve a folder on a free port; give its URL."""
    handler = partial(FolderHandler, directory=str(folder), fault=fault, asked=[] if asked is None else asked)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def on(path: str, respond: Callable[[SimpleHTTPRequestHandler], None]) -> Fault:
    """A fault for one path; the query aside."""

    def fault(handler: SimpleHTTPRequestHandler) -> bool:
        if handler.path.split("?")[0] != path:
            return False
        respond(handler)
        return True

    return fault


def answering(status: int, headers: dict[str, str], body: bytes = b"") -> Callable[[SimpleHTTPRequestHandler], None]:
    """Answer with just this."""

    def respond(handler: SimpleHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return respond
