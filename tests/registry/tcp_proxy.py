"""A TCP proxy before a server, which cuts connections."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass
class Cutting:
    """Cuts a connection after `after_bytes` of either direction, `left` times; then it lets everything pass."""

    url: str
    left: int = 0
    after_bytes: int = 0
    met: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def cuts(self, passed: int) -> bool:
        """True where this connection is to end here."""
        with self._lock:
            if self.left <= 0 or passed < self.after_bytes:
                return False
            self.left -= 1
            self.met += 1
            return True


@contextmanager
def proxy_before(url: str) -> Iterator[Cutting]:
    """Listen before the server at `url`."""
    parts = urlsplit(url)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = Cutting(f"http://127.0.0.1:{listener.getsockname()[1]}")

        def accept() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                server = socket.create_connection((parts.hostname or "", parts.port or 80))
                threading.Thread(target=_carry, args=(client, server, proxy), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield proxy
        finally:
            listener.shutdown(socket.SHUT_RDWR)


def _carry(client: socket.socket, server: socket.socket, proxy: Cutting) -> None:
    with client, server:
        back = threading.Thread(target=_pump, args=(server, client, proxy), daemon=True)
        back.start()
        _pump(client, server, proxy)
        back.join()


def _pump(source: socket.socket, sink: socket.socket, proxy: Cutting) -> None:
    passed = 0
    try:
        while piece := source.recv(1 << 16):
            passed += len(piece)
            if proxy.cuts(passed):
                break
            sink.sendall(piece)
    except OSError:
        pass
    for end in (source, sink):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            continue
