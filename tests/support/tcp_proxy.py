"""A TCP proxy before a server, which cuts connections, loses answers or is away for a while."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass
class Cutting:
    """Cuts a connection after `after_bytes` of either direction, `left` times; then it lets everything pass.

    `answer_to`: it cuts answers instead, to requests that hold these bytes. The server has carried them out.
    """

    url: str
    left: int = 0
    after_bytes: int = 0
    answer_to: bytes = b""
    met: int = 0
    away_until: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def go_away(self, seconds: float) -> None:
        """Refuse and cut everything for so long."""
        self.away_until = time.monotonic() + seconds

    @property
    def away(self) -> bool:
        """True while it is."""
        return time.monotonic() < self.away_until

    def cuts(self, passed: int, asked: bytes) -> bool:
        """True where this connection is to end here; `asked`: the request, where this is its answer."""
        with self._lock:
            held = self.answer_to in asked if self.answer_to else passed >= self.after_bytes
            if self.left <= 0 or not held:
                return self.away
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
                if proxy.away:
                    client.close()
                    continue
                server = socket.create_connection((parts.hostname or "", parts.port or 80))
                threading.Thread(target=_carry, args=(client, server, proxy), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield proxy
        finally:
            listener.shutdown(socket.SHUT_RDWR)


def _carry(client: socket.socket, server: socket.socket, proxy: Cutting) -> None:
    asked: list[bytes] = []  # what the client sent since the last answer
    with client, server:
        back = threading.Thread(target=_pump, args=(server, client, proxy, asked, False), daemon=True)
        back.start()
        _pump(client, server, proxy, asked, asking=True)
        back.join()


def _pump(source: socket.socket, sink: socket.socket, proxy: Cutting, asked: list[bytes], asking: bool) -> None:
    passed = 0
    try:
        while piece := source.recv(1 << 16):
            passed += len(piece)
            if proxy.cuts(passed, b"" if asking else b"".join(asked)):
                break
            if asking:
                asked.append(piece)
            else:
                asked.clear()
            sink.sendall(piece)
    except OSError:
        pass
    for end in (source, sink):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            continue
