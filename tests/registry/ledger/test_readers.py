"""Reading a registry by both roads: the same rows, nothing made, and a registry that is missing or damaged is named."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from devtools.services.postgresql import PostgresqlServer
from registry.bundle.folder import Bundle
from registry.ledger import mlflow_client
from registry.ledger.ledger import Ledger, open_ledger
from registry.ledger.mlflow_client import Mlflow
from registry.ledger.reader import open_reader, resolve_in
from registry.ledger.release_plan import Noted
from registry.ledger.sqlite_reader import KNOWN_REVISIONS, SqliteReader, has_known_schema
from registry.ledger.tracking import sqlite_path, tracking_uri
from registry.store.folder import FolderStore
from targets.errors import RegistryError, RegistryUnreachableError
from targets.installation import install_command
from targets.progress import Notice
from targets.references import Reference, Version
from tests.support.databases import EVERYWHERE, SQLITE
from tests.support.registrations import client_of, entry

DATABASES = EVERYWHERE


@pytest.mark.parametrize("databases", [SQLITE], indirect=True)
def test_both_roads_of_reading_give_the_same(ledger: Ledger, store: FolderStore, bundle: Bundle) -> None:
    store.add_bundle(bundle)
    for version in ("1.0.0", "1.1.0-rc.1", "1.1.0"):
        for cell in ("iphone-15", "pixel-9"):
            ledger.register(entry(bundle, version, cell))
    ledger.register(replace(entry(bundle), model="phi-2"))
    client = client_of(ledger)
    client.create_registered_model("phi.theirs")
    client.create_model_version("phi.theirs", "phipack-file:///theirs")
    ledger.point("phi.iphone-15", "production", 2)
    ledger.point("phi.iphone-15", "staging", 2)
    ledger.point("phi.pixel-9", "production", 1)
    client.delete_model_version("phi.pixel-9", "3")
    reader = open_reader(ledger.uri, store)
    assert isinstance(reader, SqliteReader)
    assert reader.models() == ledger.models() == ["phi", "phi-2"]
    assert reader.versions() == ledger.versions()
    assert reader.versions("phi") == ledger.versions("phi")
    assert len(reader.versions("phi")) == 5
    release = Version(1, 1, 0)
    assert reader.versions("phi", release=release) == ledger.versions("phi", release=release)
    assert [row.reference for row in ledger.versions("phi", release=release)] == ["phi:1.1.0@iphone-15"]
    assert reader.versions("absent") == ledger.versions("absent") == []
    for text in ("phi", "phi:^1.0@iphone-15", "phi:1.1.0-rc.1"):
        reference = Reference.parse(text)
        assert resolve_in(reader, reference) == resolve_in(ledger, reference)


@pytest.mark.parametrize("databases", [SQLITE], indirect=True)
def test_an_unknown_schema_is_read_by_mlflow_itself(ledger: Ledger, store: FolderStore, tmp_path: Path) -> None:
    database = tmp_path / "home" / "mlflow.db"
    assert has_known_schema(database)
    newer = tmp_path / "newer.db"
    shutil.copy(database, newer)
    with sqlite3.connect(newer) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'fedcba'")
    connection.close()
    assert not has_known_schema(newer)
    assert isinstance(open_reader(f"sqlite:///{newer}", store), Ledger)
    assert "fedcba" not in KNOWN_REVISIONS


def test_reading_makes_nothing(tmp_path: Path, store: FolderStore) -> None:
    reader = open_reader(f"sqlite:///{tmp_path}/none/mlflow.db", store)
    assert reader.models() == []
    assert reader.versions("phi") == []
    with pytest.raises(RegistryError, match="no model 'phi' is registered"):
        resolve_in(reader, Reference.parse("phi"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("make", [open_ledger, open_reader])
def test_a_registry_that_does_not_exist_is_empty_and_stays_away(
    tmp_path: Path, store: FolderStore, make: Callable[..., Ledger]
) -> None:
    made = make(f"sqlite:///{tmp_path}/none/mlflow.db", store)
    assert not made.exists()
    assert made.describe() == f"sqlite:///{tmp_path}/none/mlflow.db"
    assert made.models() == made.versions() == []
    assert made.in_channel("phi", "production") == made.in_channel("phi", "production", "iphone-15") == []
    if isinstance(made, Ledger):
        assert made.moves("phi") == []
        assert made.noted("phi", Version(1, 0, 0)) == Noted()
    assert list(tmp_path.iterdir()) == []


def test_an_empty_database_is_left_empty_by_reading(postgresql: PostgresqlServer, store: FolderStore) -> None:
    uri = postgresql.make_database("never_used")
    ledger = open_ledger(uri, store)
    assert not ledger.exists()
    assert ledger.versions() == ledger.moves("phi") == []
    assert not open_ledger(uri, store).exists()
    assert postgresql.password not in ledger.describe()


def test_a_registry_that_is_there_says_so(ledger: Ledger, store: FolderStore) -> None:
    assert ledger.exists()
    assert open_reader(ledger.uri, store).exists()


def test_a_file_that_is_no_database_is_reported_at_once(tmp_path: Path, store: FolderStore) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"not a database" * 100)
    ledger = open_ledger(f"sqlite:///{tmp_path}/mlflow.db", store)
    with pytest.raises(RegistryError, match="not a database"):
        ledger.models()
    with pytest.raises(RegistryError):
        open_reader(ledger.uri, store).models()


def test_a_database_that_is_made_is_named_once(
    tmp_path: Path, migrated_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be a misspelt one. What MLflow would take 2 s for is a copy here."""
    monkeypatch.setattr(mlflow_client, "connect", lambda _: shutil.copy(migrated_database, tmp_path / "misspelt.db"))
    uri, said = f"sqlite:///{tmp_path}/misspelt.db", list[object]()
    for _ in range(2):
        Mlflow(uri, said.append).connect()
    assert said == [Notice(f"a new registry: {uri}")]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_unreachable_server_is_reported_soon(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    with pytest.raises(RegistryUnreachableError, match=r"http://me:\*\*\*@127\.0\.0\.1:9 is unreachable") as caught:
        open_ledger("http://me:secret@127.0.0.1:9", store).models()
    assert "secret" not in str(caught.value)


def test_which_mlflow_is_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert sqlite_path(tracking_uri(None, tmp_path / "a b")) == tmp_path / "a b" / "mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert tracking_uri(None) == "http://server:5000"
    assert tracking_uri("sqlite:///other.db") == "sqlite:///other.db"
    assert sqlite_path("http://server:5000") is None
    with pytest.raises(RegistryError, match="can't have"):
        tracking_uri("sqlite:////100%/mlflow.db")
    for wrong in ("server:5000", "mlruns"):
        with pytest.raises(RegistryError, match="not an MLflow tracking URI"):
            tracking_uri(wrong)


def test_a_home_with_odd_letters_works(
    migrated_database: Path, tmp_path: Path, store: FolderStore, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    home = tmp_path / "a b#ü"
    home.mkdir()
    shutil.copy(migrated_database, home / "mlflow.db")
    odd_store = FolderStore(home / "store")
    odd_store.add_bundle(bundle)
    ledger = open_ledger(None, odd_store, home)
    version = ledger.register(entry(bundle))
    assert open_reader(None, store, home).versions("phi") == [version]
    assert ledger.evidence(version).bundle == bundle.digest


def test_a_new_registry_is_made_in_silence_and_reading_imports_no_mlflow(tmp_path: Path, bundle: Bundle) -> None:
    script = """
import sys
from pathlib import Path
from registry.ledger.reader import open_reader
from registry.ledger.ledger import open_ledger
from registry.store.folder import FolderStore
from targets.references import Version
root = Path(sys.argv[1])
store = FolderStore(root / "store")
assert open_reader(None, store, root / "home").models() == []
assert not {"mlflow", "sqlalchemy"} & sys.modules.keys(), "reading imports MLflow"
open_ledger(None, store, root / "home").plan_release("phi", Version(1, 0, 0), ["a"])
assert open_reader(None, store, root / "home").models() == []
"""
    environment = {"PATH": "/usr/bin", "PYTHONPATH": ":".join(sys.path), "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)
    assert {path.name for path in (tmp_path / "home").iterdir()} == {"mlflow.db", "mlflow.db.lock"}
    assert not (tmp_path / "mlruns").exists()


def test_without_mlflow_the_extra_is_named(tmp_path: Path) -> None:
    script = """
import sys
sys.modules["mlflow"] = None  # as where it is not installed
from pathlib import Path
from registry.ledger.ledger import open_ledger
from registry.store.folder import FolderStore
from targets.errors import RegistryError
try:
    open_ledger("http://127.0.0.1:9", FolderStore(Path("store"))).models()
except RegistryError as error:
    print(error.fix)
"""
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=True)
    assert done.stdout == install_command("registry") + "\n"
