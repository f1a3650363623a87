"""MLflow with its own accounts: what they may not do changes nothing, and is said; what they may, works.

The server's default is that an account may nothing; the administrator registers phi:1.0.0 and phi:1.1.0 of two cells.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from devtools.bundles import make_bundle
from devtools.services.mlflow_server import ADMINISTRATOR
from registry.bundle.folder import Bundle
from registry.ledger.channel_moves import CellMove, Move, VersionId
from registry.ledger.ledger import Ledger, open_ledger
from registry.ledger.reader import open_reader, resolve_in
from registry.promotion import history, promote, rollback
from registry.store.folder import FolderStore
from targets.errors import GateError, RegistryError
from targets.references import Reference, Version
from tests.support.command_line import Run, result_of, run_in
from tests.support.mlflow_account import MlflowAccount
from tests.support.registrations import client_of, entry

CELLS = ("iphone-15", "pixel-9")
TABLES = (
    *("experiments", "experiment_tags", "runs", "tags", "params", "metrics"),
    *("registered_models", "registered_model_tags", "registered_model_aliases", "model_versions", "model_version_tags"),
)
RELEASES = ("1.0.0", "1.1.0")
ONE_CELL = Reference.parse("phi:1.0.0@iphone-15")
MOVERS: dict[str, Callable[[Ledger], Move]] = {
    "first": lambda ledger: promote(ledger, Reference.parse("phi:1.0.0"), "staging", who="ann"),
    "next": lambda ledger: promote(ledger, Reference.parse("phi:1.0.0"), "production", who="ann"),
    "back": lambda ledger: rollback(ledger, "phi", "production", who="ann"),
}


@dataclass(frozen=True)
class Team:
    """A server, the administrator's clients, and accounts by the permissions that they have."""

    uri: str
    store: FolderStore
    newer: Bundle
    passwords: dict[str, str]
    administrator: MlflowAccount
    database: Path

    def add(self, name: str, experiment: str | None, *models: str | None) -> None:
        """Make an account and grant it these on the experiment and on each cell's registered model."""
        self.passwords[name] = secrets.token_hex(16)
        self.administrator.create(name, self.passwords[name])
        number = client_of(self.ledger).get_experiment_by_name("phi").experiment_id
        wanted = [("experiment", number, experiment)]
        wanted += [("registered_model", f"phi.{cell}", one) for cell, one in zip(CELLS, models, strict=True)]
        for kind, which, permission in wanted:
            if permission is not None:
                self.administrator.grant(name, kind, which, permission)

    @property
    def ledger(self) -> Ledger:
        return open_ledger(self.uri, self.store)

    def environment(self, name: str) -> dict[str, str]:
        """What an account sets."""
        return {
            "MLFLOW_TRACKING_URI": self.uri,
            "PHIPACK_STORE": self.store.uri,
            "MLFLOW_TRACKING_USERNAME": name,
            "MLFLOW_TRACKING_PASSWORD": self.passwords[name],
        }


@pytest.fixture(scope="module")
def team(server_with_accounts: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    server, home = server_with_accounts, tmp_path_factory.mktemp("accounts")
    with pytest.MonkeyPatch.context() as patch:
        passwords = {ADMINISTRATOR: server.password}
        store = FolderStore(home / "store")
        older, newer = make_bundle(home / "1.0.0"), make_bundle(home / "1.1.0", {"model.gguf": b"newer"})
        made = Team(server.uri, store, newer, passwords, server.administrator, server.database)
        act_as(patch, made, ADMINISTRATOR)
        for bundle, version in ((older, "1.0.0"), (newer, "1.1.0")):
            store.add_bundle(bundle)
            made.ledger.plan_release("phi", Version.parse(version), CELLS)
            for cell in CELLS:
                made.ledger.register(entry(bundle, version, cell, target=cell))
            promote(made.ledger, Reference.parse(f"phi:{version}"), "production", who="ann")
        made.add("stranger", None, None, None)
        made.add("reader", "READ", "READ", "READ")
        made.add("editor", "EDIT", "EDIT", "EDIT")
        made.add("manager", "EDIT", "MANAGE", "MANAGE")
        made.add("half", "EDIT", "MANAGE", "READ")
        made.add("models-only", None, "READ", "READ")
        made.add("short-sighted", "EDIT", "MANAGE", None)
        yield made


@pytest.fixture(autouse=True)
def _administrator(team: Team, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Begin and end a test as the administrator, and end it as it began."""
    act_as(monkeypatch, team, ADMINISTRATOR)
    before = standing(team)
    yield
    act_as(monkeypatch, team, ADMINISTRATOR)
    assert standing(team) == before


def act_as(patch: pytest.MonkeyPatch, team: Team, name: str) -> None:
    for variable in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        patch.setenv(variable, team.environment(name)[variable])


def standing(team: Team) -> list[str]:
    """Where the channels stand, in the server's own database."""
    return rows_of(team, "registered_model_aliases")


def everything(team: Team) -> dict[str, list[str]]:
    """All that the server has of models and runs, in its own database; the lease's last holder and times aside."""
    return {table: rows_of(team, table) for table in TABLES}


def rows_of(team: Team, table: str) -> list[str]:
    with closing(sqlite3.connect(f"file:{team.database}?mode=ro", uri=True)) as database:
        database.row_factory = sqlite3.Row
        rows = [dict(row) for row in database.execute(f"SELECT * FROM {table}")]
    kept = [row for row in rows if row.get("key") != "phipack.lease.holder"]
    return sorted(str({name: row[name] for name in row if not name.startswith("last_updat")}) for row in kept)


def refused(team: Team, patch: pytest.MonkeyPatch, name: str, act: Callable[[Ledger], object]) -> RegistryError:
    """Check that it is refused, changes nothing, and that no message has the password."""
    before = everything(team)
    act_as(patch, team, name)
    with pytest.raises(RegistryError) as caught:
        act(team.ledger)
    act_as(patch, team, ADMINISTRATOR)
    assert everything(team) == before
    assert not [word for word in team.passwords.values() if word in str(caught.value)]
    return caught.value


@pytest.mark.parametrize("name", ["stranger", "reader"])
@pytest.mark.parametrize("move", MOVERS)
def test_who_may_not_write_moves_nothing(team: Team, monkeypatch: pytest.MonkeyPatch, name: str, move: str) -> None:
    error = refused(team, monkeypatch, name, MOVERS[move])
    assert f"does not let {name} do this" in error.problem
    assert "EDIT" in (error.fix or "")


@pytest.mark.parametrize("name", ["stranger", "reader"])
@pytest.mark.parametrize("cell", ["iphone-15", "a-new-one"])
def test_who_may_not_write_registers_nothing(team: Team, monkeypatch: pytest.MonkeyPatch, name: str, cell: str) -> None:
    """Nor does the attempt keep the cell's name, which would be the account's own from then on."""
    error = refused(team, monkeypatch, name, lambda ledger: ledger.register(entry(team.newer, "1.2.0", cell)))
    assert f"does not let {name} do this" in error.problem
    refused(team, monkeypatch, name, lambda ledger: ledger.plan_release("phi", Version(1, 2, 0), [cell]))


@pytest.mark.parametrize("move", MOVERS)
def test_who_may_write_one_cell_alone_moves_none(team: Team, monkeypatch: pytest.MonkeyPatch, move: str) -> None:
    """Of a release the first cell would move, and the second be refused."""
    refused(team, monkeypatch, "half", MOVERS[move])
    act_as(monkeypatch, team, "manager")
    assert MOVERS["first"](team.ledger).state == "done"  # the others are not held up
    clear_staging(team, monkeypatch)


def test_a_first_promotion_asks_for_the_right_to_take_it_back(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow lets EDIT set an alias, and not delete it: a first promotion that breaks off could not be undone."""
    assert "MANAGE" in (refused(team, monkeypatch, "editor", MOVERS["first"]).fix or "")
    act_as(monkeypatch, team, "editor")
    assert MOVERS["next"](team.ledger).state == "done"
    assert rollback(team.ledger, "phi", "production", who="ann").state == "done"


def test_who_does_not_see_a_cell_promotes_no_release(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    act_as(monkeypatch, team, "short-sighted")
    with pytest.raises(GateError, match=r"pixel-9: not registered for 1\.0\.0, which plans this cell"):
        promote(team.ledger, Reference.parse("phi:1.0.0"), "production", who="ann")


def test_who_does_not_see_a_cell_undoes_nothing_for_a_dead_promoter(
    team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The half of the move that it does not see would stay, under a record that says it was taken back."""
    ledger = team.ledger
    cells = []
    for cell in CELLS:
        older, newer = (row for row in ledger.versions("phi") if row.cell == cell and str(row.release) in RELEASES)
        cells.append(CellMove(cell, VersionId.of(newer), VersionId.of(older), older.evidence))
    move = Move("", "promotion", "phi", "production", "ann", "", datetime.now(UTC), tuple(cells))
    ledger.begin_move(move, after=None)
    ledger.point("phi.pixel-9", "production", cells[1].after.number if cells[1].after else None)
    refused(team, monkeypatch, "short-sighted", lambda own: promote(own, ONE_CELL, "production", who="ann"))
    act_as(monkeypatch, team, "editor")
    assert promote(team.ledger, Reference.parse("phi:1.1.0"), "production", who="ann").cells == ()
    assert history(team.ledger, "phi")[0].state == "undone"


def test_who_sees_no_experiment_sees_no_evidence(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    act_as(monkeypatch, team, "models-only")
    version = resolve_in(team.ledger, Reference.parse("phi:production@pixel-9"))[0]
    with pytest.raises(RegistryError, match="does not let models-only do this"):
        team.ledger.evidence(version)


def test_a_name_that_is_hidden_is_said_to_be_there(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    act_as(monkeypatch, team, "short-sighted")
    with pytest.raises(RegistryError, match=r"phi\.pixel-9 exists, but this account may not read it"):
        team.ledger.register(entry(team.newer, "1.2.0", "pixel-9"))


def test_an_editor_registers(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    act_as(monkeypatch, team, "editor")
    made = team.ledger.register(entry(team.newer, "1.3.0", "iphone-15"))
    assert team.ledger.evidence(made).bundle == team.newer.digest
    act_as(monkeypatch, team, ADMINISTRATOR)
    client_of(team.ledger).delete_model_version("phi.iphone-15", str(made.number))


def test_a_reader_reads(team: Team, tmp_path: Path) -> None:
    phipack = run_in(tmp_path, team.environment("reader"))
    phipack("fetch", "phi:production@pixel-9", "-o", "bundle")
    assert (tmp_path / "bundle" / "model.gguf").read_bytes() == b"newer"
    titles = {move["title"] for move in result_of(phipack("--json", "history", "phi"))["moves"]}
    assert "promotion of 1.1.0 to production" in titles
    assert "kl_mean" in phipack("show", "phi:production").stdout
    told = phipack("promote", "phi:1.0.0", "--to", "production", expect=1).stderr
    assert "does not let reader do this" in told
    assert "fix: ask its administrator" in told


def test_what_a_stranger_may_not_read_is_not_there(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    act_as(monkeypatch, team, "stranger")
    assert team.ledger.versions() == []
    with pytest.raises(RegistryError, match="no model 'phi'"):
        resolve_in(open_reader(team.uri, team.store), Reference.parse("phi"))
    with pytest.raises(RegistryError, match="does not let stranger do this"):
        history(team.ledger, "phi")


@pytest.mark.parametrize(
    ("account", "problem"),
    [
        ({"MLFLOW_TRACKING_PASSWORD": "not-this-one"}, "refuses account 'editor' or its password"),
        ({"MLFLOW_TRACKING_USERNAME": "", "MLFLOW_TRACKING_PASSWORD": ""}, "requires authentication"),
    ],
)
def test_an_unknown_account_is_reported_with_what_to_set(
    team: Team, tmp_path: Path, account: dict[str, str], problem: str
) -> None:
    phipack: Run = run_in(tmp_path, team.environment("editor") | account)
    done = phipack("promote", "phi:1.0.0", "--to", "production", expect=1)
    assert problem in done.stderr
    assert "MLFLOW_TRACKING_PASSWORD" in done.stderr
    assert not [word for word in (*team.passwords.values(), "not-this-one") if word in done.stdout + done.stderr]


def test_a_password_in_the_uri_is_shown_to_nobody(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.delenv(name)
    with pytest.raises(RegistryError) as caught:
        open_ledger(team.uri.replace("://", "://editor:not-this-one@"), team.store).versions()
    assert "not-this-one" not in str(caught.value)


def clear_staging(team: Team, patch: pytest.MonkeyPatch) -> None:
    act_as(patch, team, ADMINISTRATOR)
    for cell in CELLS:
        client_of(team.ledger).delete_registered_model_alias(f"phi.{cell}", "staging")
