"""A login that PostgreSQL refuses is an error of the address; a server that is away or full is worth another try."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from devtools.services.postgresql import PostgresqlServer
from registry.ledger import postgresql_login
from registry.ledger.ledger import open_ledger
from registry.ledger.postgresql_login import CONNECTED, login_sqlstate
from registry.store.folder import FolderStore
from targets.errors import RegistryError, RegistryUnreachableError
from tests.support.databases import MIGRATED


def test_the_servers_own_code_is_returned(postgresql: PostgresqlServer) -> None:
    good = postgresql.uri(MIGRATED)
    assert login_sqlstate(good) == CONNECTED
    assert login_sqlstate(good.replace(postgresql.password, "wrong")) == "28P01"
    assert login_sqlstate(postgresql.uri("no-such-database")) == "3D000"
    assert login_sqlstate(f"postgresql://u@127.0.0.1:{unused_port()}/db") is None


@pytest.mark.parametrize("method", ["md5", "password", "reject", "trust"])
def test_each_way_to_log_in_is_known(postgresql: PostgresqlServer, method: str) -> None:
    user, stored = f"by_{method}", "md5" if method == "md5" else "scram-sha-256"
    (row,) = postgresql.execute("SHOW hba_file")
    rules = Path(row[0])
    rules.write_text(f"host all {user} 127.0.0.1/32 {method}\n{rules.read_text('utf-8')}", "utf-8")
    postgresql.execute(f"SET password_encryption = '{stored}'; CREATE USER {user} PASSWORD 'right'")
    postgresql.execute("SELECT pg_reload_conf()")
    time.sleep(0.3)
    address = f"postgresql://{user}:PASS@127.0.0.1:{postgresql.port}/postgres"
    right, wrong = (login_sqlstate(address.replace("PASS", password)) for password in ("right", "wrong"))
    expected = {"reject": ("28000", "28000"), "trust": (CONNECTED, CONNECTED)}
    assert (right, wrong) == expected.get(method, (CONNECTED, "28P01"))


@pytest.mark.parametrize("password", ["wrong", "se/cret2", "a:b%40c%23d%3F", "%20"])
def test_a_wrong_password_is_no_outage(postgresql: PostgresqlServer, store: FolderStore, password: str) -> None:
    uri = postgresql.uri(MIGRATED).replace(postgresql.password, password)
    with pytest.raises(RegistryError, match=r"refuses the login: .*password authentication failed") as caught:
        open_ledger(uri, store).models()
    assert not isinstance(caught.value, RegistryUnreachableError)
    assert caught.value.exit_code == 1
    assert password not in str(caught.value).replace("\n  fix: ", "") or password == "%20"
    assert "user and password" in caught.value.fix


def test_a_missing_database_is_no_outage(postgresql: PostgresqlServer, store: FolderStore) -> None:
    with pytest.raises(RegistryError, match="refuses the login") as caught:
        open_ledger(postgresql.uri("no-such-database"), store).models()
    assert caught.value.exit_code == 1
    assert "create the database" in caught.value.fix


@pytest.mark.parametrize("code", [b"57P03", b"53300"])
def test_a_server_that_starts_or_is_full_is_worth_another_try(store: FolderStore, code: bytes) -> None:
    with (
        refusing(code) as port,
        pytest.raises(RegistryUnreachableError),
    ):
        open_ledger(f"postgresql+psycopg2://u:p@127.0.0.1:{port}/db?sslmode=disable", store).models()


def test_a_server_that_is_away_is_unreachable(store: FolderStore) -> None:
    with pytest.raises(RegistryUnreachableError):
        open_ledger(f"postgresql+psycopg2://u:p@127.0.0.1:{unused_port()}/db", store).models()


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@contextmanager
def refusing(code: bytes) -> Iterator[int]:
    """A server that answers every login with one code."""
    body = b"SFATAL\0VFATAL\0C" + code + b"\0Mnot now\0\0"
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                with client:
                    client.recv(1 << 16)
                    client.sendall(b"E" + (4 + len(body)).to_bytes(4, "big") + body)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield int(server.getsockname()[1])
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)


NOTICE = b"N\0\0\0\4"
CHALLENGE = b"r=nonce,s=c2FsdA==,i=2000000000"  # an hour of hashing


@pytest.mark.parametrize("answer", [NOTICE, b"R" + struct.pack("!ii", 8 + len(CHALLENGE), 11) + CHALLENGE])
def test_a_server_that_comes_to_no_point_is_left(monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
    ours, theirs = socket.socketpair()

    def talk() -> None:
        with suppress(OSError):
            while True:
                theirs.sendall(answer)

    monkeypatch.setattr(postgresql_login, "_opened", lambda _: ours)
    monkeypatch.setattr(postgresql_login, "_LOGIN_SECONDS", 0.02)
    talking = threading.Thread(target=talk)
    talking.start()
    assert login_sqlstate("postgresql+psycopg2://u:p@h/db") is None
    talking.join(10)
    theirs.close()
