"""Where commands look and write: slips are refused, secrets are not repeated, an unknown user is no defect."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from devtools.bundles import make_bundle
from devtools.catalogs import Publisher
from phipack.problems import explain
from registry.ledger.tracking import tracking_uri
from targets.errors import RegistryError
from tests.support.command_line import InProcess
from tests.support.measurements import measurement

SECRET = "se/cret2"


@pytest.mark.parametrize(
    "options",
    [
        ("--store", ""),
        ("--store", "s3:/bucket/x"),
        ("--store", "file:relative"),
        ("--store", "~/store"),
        ("--tracking-uri", ""),
        ("--tracking-uri", "sqlite://"),
        ("--tracking-uri", "sqlite:///:memory:"),
        ("--tracking-uri", "sqlite:///~/mlflow.db"),
        ("--tracking-uri", "http://h:notaport"),
        ("--tracking-uri", "http://h:99999"),
        ("--tracking-uri", "http://my host"),
        ("--tracking-uri", "http://[::1"),
        ("--tracking-uri", "postgresql://h:notaport/db"),
        ("--tracking-uri", "postgres://h/db"),
        ("--tracking-uri", "mysql+pymysql://h/db"),
    ],
)
def test_a_slip_is_refused_and_leaves_nothing(command: InProcess, tmp_path: Path, options: tuple[str, str]) -> None:
    (tmp_path / "evidence.json").write_text("{}", "utf-8")
    for words in (("gc",), ("publish", "phi", "--keys", "keys")):
        done = command(*words, *options, expect=1)
        assert "a defect" not in done.stderr
        assert "fix: " in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evidence.json"]


@pytest.mark.parametrize("place", ["", "s3:/bucket/x", "file:relative", "~/store"])
def test_a_catalogs_place_is_checked_too(command: InProcess, tmp_path: Path, place: str) -> None:
    command("keys", "init", "--keys", "keys")
    done = command("publish", "--refresh", "--to", place, "--keys", "keys", expect=1)
    assert "is not a store" in done.stderr or "is an empty text" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["keys"]


@pytest.mark.parametrize("place", ["s3:/bucket/x", "~/store", "file:relative"])
def test_the_project_files_store_is_checked_at_its_key(command: InProcess, project: Path, place: str) -> None:
    text = (project / "phipack.toml").read_text("utf-8")
    (project / "phipack.toml").write_text(f'{text}\n[registry]\nstore = "{place}"\n', "utf-8")
    done = command("gc", "--project", str(project / "phipack.toml"), expect=1)
    assert "registry.store: " in done.stderr


@pytest.mark.parametrize("password", [SECRET, "p@ss2", "a:b#c?d", "p'w\"x", "p w"])
def test_a_password_is_neither_printed_nor_logged(command: InProcess, tmp_path: Path, password: str) -> None:
    uri = f"postgresql+psycopg2://u:{password}@127.0.0.1:9/db"
    done = command("--log-file", "log", "ls", "--tracking-uri", uri, "--verbose", expect=1 if "@" in password else 4)
    for text in (done.stdout, done.stderr, (tmp_path / "log").read_text("utf-8")):
        assert password not in text
        assert password[-4:] not in text.replace("u:***", "")
    assert "postgresql+psycopg2://u:***@127.0.0.1:9/db" in done.stderr


def test_a_defects_command_line_has_no_password() -> None:
    uri = f"postgresql+psycopg2://u:{SECRET}@h/db"
    problem = explain(RuntimeError(f"no {uri}: {SECRET}"), arguments=("ls", f"--tracking-uri={uri}"))
    assert problem is not None
    assert "cret2" not in problem.text
    assert "--tracking-uri=postgresql+psycopg2://u:***@h/db" in problem.text


@pytest.mark.parametrize("words", [("gc",), ("gc", "--dry-run"), ("registry", "relocate")])
def test_a_place_that_is_not_there_is_no_success(command: InProcess, tmp_path: Path, words: tuple[str, ...]) -> None:
    done = command(*words, "--store", "stor", "--tracking-uri", "sqlite:///misspelt.db", expect=1)
    assert "nothing was" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_an_import_makes_is_named(command: InProcess, tmp_path: Path) -> None:
    made = make_bundle(tmp_path / "bundle")
    (tmp_path / "own.json").write_text(measurement(bundle=made.digest).to_json(), "utf-8")
    words = ("evidence", "import", "own.json", "--bundle", "bundle", "--store", "stor")
    said = f"a new store: {(tmp_path / 'stor').as_uri()}\n"
    assert said in command(*words).stderr
    assert said not in command(*words).stderr


def test_an_empty_variable_is_not_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    assert tracking_uri(None, tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    with pytest.raises(RegistryError, match="empty"):
        tracking_uri("")


def test_an_unknown_user_reads_promotes_and_fetches(
    command: InProcess, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, migrated_database: Path
) -> None:
    """As in a container that runs as a number: no entry in passwd, no USER, no HOME."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME", "HOME", "XDG_STATE_HOME", "PHIPACK_STATE"):
        monkeypatch.delenv(name, raising=False)

    def unknown(who: object) -> None:
        raise KeyError(who)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    uri = f"sqlite:///{migrated_database}"
    command("ls", "--tracking-uri", uri)
    command("history", "phi", "--tracking-uri", uri)
    done = command("promote", "phi:1.0.0", "--to", "beta", "--tracking-uri", uri, expect=1)
    assert "no model 'phi'" in done.stderr
    publisher = Publisher(tmp_path / "publisher")
    bundle = publisher.release("1.0.0")
    command("fetch", str(bundle.path), "-o", "copied", "--replace")
    command("fetch", str(bundle.path), "-o", "copied", "--replace")
    done = command("fetch", "http://127.0.0.1:9", "--device", "iPhone15,4", "-o", "phone", expect=1)
    assert "HOME is not set" in done.stderr
    assert "PHIPACK_STATE" in done.stderr
    done = command("fetch", "~/bundle", "-o", "out", expect=1)
    assert "~/bundle: HOME is not set" in done.stderr
    assert f"uid{os.getuid()}" in done.stderr


@pytest.mark.parametrize("reason", ["x" * 2001, "caf\udce9"])
def test_a_reason_that_the_history_can_not_keep_whole_is_refused(
    command: InProcess, migrated_database: Path, reason: str
) -> None:
    uri = f"sqlite:///{migrated_database}"
    for words in (("promote", "phi:1.0.0", "--to", "beta"), ("rollback", "phi")):
        done = command(*words, "--reason", reason, "--tracking-uri", uri, expect=1)
        assert "the reason" in done.stderr
