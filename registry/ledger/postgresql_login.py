"""What PostgreSQL itself answers to a login, as SQLSTATE: psycopg2 has no code for a connection that was never made.

A refused password, a missing database, a server that starts and one that is full all raise the same `OperationalError`,
in the words of the server's language. So the login is repeated here, in the frontend/backend protocol 3.0
(https://www.postgresql.org/docs/current/protocol-flow.html), up to the first answer that decides.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import secrets
import socket
import ssl
import struct
import time
from dataclasses import dataclass, field
from typing import Any

CONNECTED = "00000"
_TIMEOUT_SECONDS = 10.0  # each wait
_LOGIN_SECONDS = 30.0  # all of it
_ITERATIONS_LIMIT = 1_000_000  # of SCRAM; a server asks for 4,096 by default
_PORT = 5432
_PROTOCOL, _TLS_REQUEST = 196608, 80877103
_ANSWER_BYTES_LIMIT = 1 << 16
_VERIFYING = ("verify-ca", "verify-full")
_OK, _CLEARTEXT, _MD5, _SASL, _SASL_CONTINUE, _SASL_FINAL = 0, 3, 5, 10, 11, 12


def connect_arguments(uri: str) -> dict[str, Any]:
    """Return psycopg2's arguments for a tracking URI, read by SQLAlchemy, as the registry itself connects."""
    import sqlalchemy

    url = sqlalchemy.make_url(uri)
    return {**url.translate_connect_args(username="user", database="dbname"), **url.query}


def login_sqlstate(uri: str) -> str | None:
    """Return the SQLSTATE of a login, `CONNECTED` where it succeeds; None where no server answers, or not so.

    A server whose certificate the URI wants verified is not asked: nothing is sent to it here.
    """
    asked = connect_arguments(uri)
    if asked.get("sslmode") in _VERIFYING:
        return None
    try:
        with contextlib.closing(_opened(asked)) as connection:
            login = _Login(connection, str(asked.get("user", "")), str(asked.get("password", "")))
            return login.sqlstate(str(asked.get("dbname") or asked.get("user", "")))
    except (OSError, ValueError, OverflowError, struct.error, KeyError):
        return None


def _opened(asked: dict[str, Any]) -> socket.socket:
    host, port = str(asked.get("host") or "/var/run/postgresql"), int(asked.get("port") or _PORT)
    if host.startswith("/"):
        local = socket.socket(socket.AF_UNIX)
        local.settimeout(_TIMEOUT_SECONDS)
        local.connect(f"{host}/.s.PGSQL.{port}")
        return local
    connection = socket.create_connection((host, port), _TIMEOUT_SECONDS)
    if asked.get("sslmode") == "disable":
        return connection
    connection.sendall(struct.pack("!ii", 8, _TLS_REQUEST))
    if connection.recv(1) != b"S":
        return connection
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # as libpq does unless verification is asked for
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(connection)


@dataclass
class _Login:
    connection: socket.socket
    user: str
    password: str
    started: float = field(default_factory=time.monotonic)

    def sqlstate(self, database: str) -> str | None:
        """Log in; return what decides."""
        parameters = b"".join(part.encode() + b"\0" for part in ("user", self.user, "database", database)) + b"\0"
        self.connection.sendall(struct.pack("!ii", 8 + len(parameters), _PROTOCOL) + parameters)
        scram = _Scram(self.password)
        while True:
            kind, body = self._message()
            if kind == b"E":
                return next((field[1:].decode() for field in body.split(b"\0") if field[:1] == b"C"), None)
            if kind == b"Z":  # ready for a query
                return CONNECTED
            if kind == b"R" and not self._answered(struct.unpack("!i", body[:4])[0], body[4:], scram):
                return None

    def _answered(self, method: int, body: bytes, scram: _Scram) -> bool:
        """Answer a request for authentication; False where it is of a kind that is not known here."""
        if method == _CLEARTEXT:
            self._send(self.password.encode() + b"\0")
        elif method == _MD5:
            inner = hashlib.md5((self.password + self.user).encode(), usedforsecurity=False).hexdigest()
            outer = hashlib.md5(inner.encode() + body[:4], usedforsecurity=False).hexdigest()
            self._send(b"md5" + outer.encode() + b"\0")
        elif method == _SASL:
            first = scram.first()
            self._send(b"SCRAM-SHA-256\0" + struct.pack("!i", len(first)) + first)
        elif method == _SASL_CONTINUE:
            self._send(scram.final(body))
        return method in (_OK, _CLEARTEXT, _MD5, _SASL, _SASL_CONTINUE, _SASL_FINAL)

    def _send(self, body: bytes) -> None:
        self.connection.sendall(b"p" + struct.pack("!i", 4 + len(body)) + body)

    def _message(self) -> tuple[bytes, bytes]:
        kind, size = struct.unpack("!ci", self._read(5))
        if not 4 <= size <= _ANSWER_BYTES_LIMIT:
            raise ValueError(size)
        return kind, self._read(size - 4)

    def _read(self, count: int) -> bytes:
        content = b""
        while len(content) < count:
            if time.monotonic() - self.started > _LOGIN_SECONDS:
                raise TimeoutError
            piece = self.connection.recv(count - len(content))
            if not piece:
                raise ConnectionError
            content += piece
        return content


class _Scram:
    """SCRAM-SHA-256 (RFC 5802, RFC 7677), the client's side, without channel binding."""

    def __init__(self, password: str) -> None:
        self._password = password
        self._bare = f"n=,r={secrets.token_urlsafe(18)}"

    def first(self) -> bytes:
        """Return the client's first message."""
        return f"n,,{self._bare}".encode()

    def final(self, answer: bytes) -> bytes:
        """Return the proof for the server's first message."""
        said = dict(part.split("=", 1) for part in answer.decode().split(","))
        if not 0 < (iterations := int(said["i"])) <= _ITERATIONS_LIMIT:
            raise ValueError(iterations)
        key = hashlib.pbkdf2_hmac("sha256", self._password.encode(), base64.b64decode(said["s"]), iterations)
        client = hmac.digest(key, b"Client Key", "sha256")
        without_proof = f"c=biws,r={said['r']}"
        signed = f"{self._bare},{answer.decode()},{without_proof}".encode()
        signature = hmac.digest(hashlib.sha256(client).digest(), signed, "sha256")
        proof = bytes(a ^ b for a, b in zip(client, signature, strict=True))
        return f"{without_proof},p={base64.b64encode(proof).decode()}".encode()
