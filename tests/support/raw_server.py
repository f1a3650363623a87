"""A server that speaks bytes: it reads a request's head, and sends what a test has for it, piece by piece."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

# Returns the pieces of one answer, for the request's head. It may be endless: it ends when the client hangs up.
Answer = Callable[[bytes], Iterable[bytes]]


@contextmanager
def raw_server(answer: Answer) -> Iterator[str]:
    """Serve on a free port, one connection after the other, and yield the URL."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=_serve, args=(listening, answer))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


def _serve(listening: socket.socket, answer: Answer) -> None:
    while True:
        try:
            connection, _ = listening.accept()
        except OSError:  # the test is over
            return
        with connection, suppress(OSError):  # the client hangs up
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            head = b""
            while b"\r\n\r\n" not in head and (piece := connection.recv(65536)):
                head += piece
            for part in answer(head):
                connection.sendall(part)
