"""adbd's side of the ADB protocol on one TCP connection: packets, streams, `shell,v2`, `exec:`, `sync:`, `reboot:`.

The protocol: packages/modules/adb/protocol.txt, SYNC.TXT (file_sync_service.h) and shell_protocol.h of the Android Open
Source Project. Checksums are 0, as from version 0x01000001 on.
"""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import struct
import subprocess
import threading
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.phone.device import Phone

_VERSION, _MAX_DATA = 0x01000001, 256 * 1024
_HEADER = struct.Struct("<4s5I")
_PUBLIC_KEY = 3  # of AUTH
_MAX_SYNC = 64 * 1024
_STDIN, _STDOUT, _STDERR, _EXIT, _CLOSE_STDIN = range(5)
_PIECE = 16 * 1024


class GoneError(ConnectionError):
    """The connection, or one of its streams, has ended."""


class Connection:
    """One adb server that is connected to the phone."""

    def __init__(self, phone: Phone, peer: socket.socket) -> None:
        self.phone, self._peer = phone, peer
        self._streams: dict[int, Stream] = {}
        self._sending = threading.Lock()
        self._next = 1

    def serve(self) -> None:
        """Answer packets until the connection ends."""
        try:
            while True:
                self._receive()
        except (OSError, struct.error):
            pass
        finally:
            self.close()

    def close(self) -> None:
        """Cut the connection; every stream and its program ends."""
        with contextlib.suppress(OSError):
            self._peer.shutdown(socket.SHUT_RDWR)
        self._peer.close()
        for stream in list(self._streams.values()):
            stream.end()

    def send(self, command: bytes, first: int, second: int, content: bytes = b"") -> None:
        magic = int.from_bytes(command, "little") ^ 0xFFFFFFFF
        with self._sending:
            self._peer.sendall(_HEADER.pack(command, first, second, len(content), 0, magic) + content)

    def forget(self, stream: Stream) -> None:
        self._streams.pop(stream.local, None)

    def _receive(self) -> None:
        command, first, second, length, _, _ = _HEADER.unpack(self._exactly(_HEADER.size))
        content = self._exactly(length)
        if command in (b"CNXN", b"AUTH"):
            self._greet(command, first)
        elif command == b"OPEN":
            stream = Stream(self, self._next, first)
            self._streams[stream.local] = stream
            self._next += 1
            threading.Thread(target=stream.run, args=(content.rstrip(b"\0").decode(),), daemon=True).start()
        elif (stream_ := self._streams.get(second)) is not None:
            stream_.received(command, content)
        elif command == b"WRTE":
            self.send(b"CLSE", 0, first)

    def _greet(self, command: bytes, kind: int) -> None:
        if self.phone.authorized:
            self.send(b"CNXN", _VERSION, _MAX_DATA, self.phone.banner.encode())
        elif kind != _PUBLIC_KEY:  # a token to be signed; with the key itself, the phone asks its owner, who is away
            self.send(b"AUTH", 1, 0, bytes(20))

    def _exactly(self, count: int) -> bytes:
        content = b""
        while len(content) < count:
            piece = self._peer.recv(count - len(content))
            if not piece:
                raise GoneError
            content += piece
        return content


class Stream:
    """One service that adb opened. Each written packet waits for the other side's OKAY."""

    def __init__(self, connection: Connection, local: int, remote: int) -> None:
        self.connection, self.local, self.remote = connection, local, remote
        self._incoming: queue.Queue[bytes | None] = queue.Queue()
        self._ready = threading.Semaphore(0)
        self._buffer = b""
        self._ended = False
        self.process: subprocess.Popen[bytes] | None = None

    def run(self, service: str) -> None:
        """Serve what was asked for."""
        phone = self.connection.phone
        with contextlib.suppress(OSError, GoneError):
            phone.asked(service)
            kind, _, argument = service.partition(":")
            if kind.split(",")[0] == "shell":
                self._accept()
                _shell(self, argument, framed="v2" in kind.split(","))
            elif kind == "exec":
                self._accept()
                _shell(self, argument, framed=False)
            elif kind == "sync":
                self._accept()
                _sync(self, phone)
            elif kind == "reboot":
                self._accept()
                phone.reboot()
            self.connection.send(b"CLSE", self.local, self.remote)
        self.connection.forget(self)

    def write(self, content: bytes) -> None:
        for start in range(0, len(content), _MAX_DATA):
            if self._ended:
                raise GoneError
            self.connection.send(b"WRTE", self.local, self.remote, content[start : start + _MAX_DATA])
            self._ready.acquire()
            if self._ended:
                raise GoneError

    def read(self, count: int) -> bytes:
        while len(self._buffer) < count:
            piece = self._incoming.get()
            if piece is None:
                raise GoneError
            self._buffer += piece
        content, self._buffer = self._buffer[:count], self._buffer[count:]
        return content

    def received(self, command: bytes, content: bytes) -> None:
        if command == b"OKAY":
            self._ready.release()
        elif command == b"WRTE":
            self._incoming.put(content)
            self.connection.send(b"OKAY", self.local, self.remote)
        elif command == b"CLSE":
            self.end()

    def end(self) -> None:
        """End the stream. Its program goes on, as under adbd, until it reads or writes."""
        self._ended = True
        self._incoming.put(None)
        self._ready.release()

    def _accept(self) -> None:
        self.connection.send(b"OKAY", self.local, self.remote)


def _shell(stream: Stream, command: str, *, framed: bool) -> None:
    process = stream.process = stream.connection.phone.start(command)

    def pass_on(kind: int, source: IO[bytes]) -> None:
        # Closed where the other side is gone: as under adbd, a program without a terminal notices when it writes.
        with contextlib.suppress(OSError, GoneError), source:
            while content := os.read(source.fileno(), _PIECE):
                stream.write(struct.pack("<BI", kind, len(content)) + content if framed else content)

    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    threading.Thread(target=_feed, args=(stream, process.stdin), kwargs={"framed": framed}, daemon=True).start()
    readers = [
        threading.Thread(target=pass_on, args=(kind, out), daemon=True)
        for kind, out in ((_STDOUT, process.stdout), (_STDERR, process.stderr))
    ]
    for reader in readers:
        reader.start()
    code = process.wait()
    for reader in readers:
        reader.join()
    if framed:
        stream.write(struct.pack("<BIB", _EXIT, 1, code if code >= 0 else 128 - code))


def _feed(stream: Stream, stdin: IO[bytes], *, framed: bool) -> None:
    """Pass on what adb sends to a program's standard input, until either ends."""
    with contextlib.suppress(OSError, GoneError), stdin:
        while not framed:
            stdin.write(stream.read(1))
            stdin.flush()
        while True:
            kind, length = struct.unpack("<BI", stream.read(5))
            content = stream.read(length)
            if kind == _CLOSE_STDIN:
                break
            if kind == _STDIN:
                stdin.write(content)
                stdin.flush()


def _sync(stream: Stream, phone: Phone) -> None:
    while True:
        kind, length = struct.unpack("<4sI", stream.read(8))
        if kind == b"QUIT":
            return
        name = stream.read(length).decode()
        if kind == b"SEND":
            _receive_file(stream, phone, name.rpartition(",")[0])
        elif kind == b"RECV":
            _send_file(stream, phone, name)
        elif kind in (b"STAT", b"STA2", b"LST2"):
            stream.write(_status(phone, name, kind))
        elif kind == b"LIST":
            for entry in phone.listed(name):
                mode, size, when = _facts(phone, f"{name}/{entry}")
                stream.write(struct.pack("<4s4I", b"DENT", mode, size, when, len(entry.encode())) + entry.encode())
            stream.write(struct.pack("<4s4I", b"DONE", 0, 0, 0, 0))
        else:
            raise GoneError


def _receive_file(stream: Stream, phone: Phone, name: str) -> None:
    problem = ""
    with contextlib.ExitStack() as opened:
        file = None
        try:
            path = phone.path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            file = opened.enter_context(path.open("wb"))
        except OSError as error:
            problem = error.strerror or str(error)
        while True:
            kind, length = struct.unpack("<4sI", stream.read(8))
            if kind == b"DONE":
                break
            content = stream.read(length)
            try:
                if file is not None and not problem:
                    phone.take(len(content))
                    file.write(content)
                    file.flush()
            except OSError as error:
                problem = error.strerror or str(error)
    said = problem.encode()
    stream.write(struct.pack("<4sI", b"FAIL", len(said)) + said if problem else struct.pack("<4sI", b"OKAY", 0))


def _send_file(stream: Stream, phone: Phone, name: str) -> None:
    try:
        content = phone.path(name).read_bytes()
    except OSError as error:
        said = (error.strerror or str(error)).encode()
        stream.write(struct.pack("<4sI", b"FAIL", len(said)) + said)
        return
    for start in range(0, len(content), _MAX_SYNC):
        piece = content[start : start + _MAX_SYNC]
        stream.write(struct.pack("<4sI", b"DATA", len(piece)) + piece)
    stream.write(struct.pack("<4sI", b"DONE", 0))


def _facts(phone: Phone, name: str) -> tuple[int, int, int]:
    try:
        found = phone.path(name).stat()
    except OSError:
        return 0, 0, 0
    return found.st_mode, min(found.st_size, 0xFFFFFFFF), int(found.st_mtime)


def _status(phone: Phone, name: str, kind: bytes) -> bytes:
    if kind == b"STAT":
        return struct.pack("<4s3I", b"STAT", *_facts(phone, name))
    try:
        found = phone.path(name).stat()
    except OSError as error:
        return struct.pack("<4sI2Q4IQ3q", kind, error.errno or 5, *([0] * 10))
    numbers = (found.st_dev & 0xFFFFFFFF, found.st_ino, found.st_mode, found.st_nlink, found.st_uid, found.st_gid)
    when = int(found.st_mtime)
    return struct.pack("<4sI2Q4IQ3q", kind, 0, *numbers, found.st_size, when, when, when)
