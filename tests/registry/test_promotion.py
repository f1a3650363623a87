"""Promotion and history: all or none, refused without evidence, and nothing forgotten."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from devtools.bundles import make_bundle, make_evidence
from registry.ledger.channel_moves import VersionId
from registry.ledger.ledger import Ledger, open_ledger
from registry.ledger.registration import Registration
from registry.promotion import current_user, history, rollback
from registry.store.folder import FolderStore
from targets.errors import Failure, GateError, MalformedReferenceError, RegistryError
from targets.references import Version
from tests.support.databases import EVERYWHERE, POSTGRESQL, SQLITE
from tests.support.registrations import client_of, runs_of
from tests.support.releases import CELLS, add, all_at, back, standing, to

DATABASES = EVERYWHERE


def test_every_cell_moves_and_the_move_is_kept(releases: Ledger) -> None:
    move = to(releases, "phi:1.0.0", why="first")
    assert standing(releases) == all_at("1.0.0")
    assert [kept.id for kept in history(releases, "phi")] == [move.id]
    kept = history(releases, "phi")[0]
    assert (kept.kind, kept.channel, kept.who, kept.why, kept.state) == (
        "promotion",
        "production",
        "ann@ci",
        "first",
        "done",
    )
    assert abs((kept.when - datetime.now(UTC)).total_seconds()) < 60
    assert [(part.cell, part.before) for part in kept.cells] == [(cell, None) for cell in CELLS]
    assert {part.after.release for part in kept.cells if part.after} == {"1.0.0"}
    rows = {row.cell: row for row in releases.versions("phi") if str(row.release) == "1.0.0"}
    assert {part.cell: part.evidence for part in kept.cells} == {cell: row.evidence for cell, row in rows.items()}
    run = client_of(releases).get_run(move.id)
    assert run.info.run_name == "promotion of 1.0.0 to production"
    assert run.data.tags["mlflow.user"] == "ann@ci"


@pytest.mark.client_side
def test_promoting_what_stands_already_moves_nothing(releases: Ledger) -> None:
    to(releases, "phi:1.0.0")
    again = to(releases, "phi:1.0.0")
    assert again.cells == ()
    assert again.id == ""
    assert len(history(releases, "phi")) == 1


@pytest.mark.client_side
def test_channels_are_apart_and_one_can_be_promoted_to_another(releases: Ledger) -> None:
    to(releases, "phi:1.1.0", "staging")
    to(releases, "phi:1.0.0")
    assert standing(releases, "staging") == all_at("1.1.0")
    to(releases, "phi:staging")
    assert standing(releases) == all_at("1.1.0")
    to(releases, "phi:^1.0", "candidate")
    assert standing(releases, "candidate") == all_at("1.2.0")


@pytest.mark.client_side
def test_one_cell_can_be_promoted_alone(releases: Ledger) -> None:
    to(releases, "phi:1.0.0")
    to(releases, "phi:1.1.0@pixel-9")
    assert standing(releases) == all_at("1.0.0") | {"pixel-9": "1.1.0"}
    assert [move.title for move in history(releases, "phi", cell="iphone-15")] == ["promotion of 1.0.0 to production"]
    back(releases)
    assert standing(releases) == all_at("1.0.0")


@pytest.mark.client_side
def test_cells_that_are_missing_in_a_release_keep_theirs(releases: Ledger, tmp_path: Path) -> None:
    to(releases, "phi:1.0.0")
    add(releases, tmp_path, "2.0.0", cells=("pixel-9",))
    to(releases, "phi:2.0.0")
    assert standing(releases) == all_at("1.0.0") | {"pixel-9": "2.0.0"}


@pytest.mark.client_side
def test_failed_gates_refuse_the_whole_release(releases: Ledger, tmp_path: Path) -> None:
    to(releases, "phi:1.0.0")
    add(releases, tmp_path, "2.0.0", cells=CELLS[:2])
    bad = make_bundle(tmp_path / "bad", {"model.gguf": b"bad"})
    releases.store.add_bundle(bad)
    evidence = make_evidence(bad, target="pixel-9", kl_mean=0.2)
    releases.register(Registration("phi", Version(2, 0, 0), "pixel-9", bad.manifest, evidence))
    with pytest.raises(GateError) as caught:
        to(releases, "phi:2.0.0")
    assert "pixel-9: kl_mean is 0.2, must be <= 0.05 (asked by pixel-9)" in str(caught.value)
    assert "iphone-15" not in str(caught.value)
    assert standing(releases) == all_at("1.0.0")
    assert len(history(releases, "phi")) == 1
    to(releases, "phi:2.0.0@iphone-15")
    assert standing(releases) == all_at("1.0.0") | {"iphone-15": "2.0.0"}


@pytest.mark.client_side
def test_a_planned_cell_that_is_missing_refuses_the_release(releases: Ledger) -> None:
    releases.plan_release("phi", Version(1, 1, 0), [*CELLS, "iphone-16-pro"])
    with pytest.raises(GateError, match=r"iphone-16-pro: not registered for 1\.1\.0") as caught:
        to(releases, "phi:1.1.0")
    assert caught.value.failures == (Failure("iphone-16-pro", "not registered for 1.1.0, which plans this cell"),)
    assert standing(releases) == {}
    to(releases, "phi:1.1.0@pixel-9")


@pytest.mark.client_side
def test_a_cell_that_a_channel_does_not_have_is_not_called_unregistered(releases: Ledger) -> None:
    releases.plan_release("phi", Version(1, 1, 0), CELLS)
    to(releases, "phi:1.1.0@pixel-9", "staging")
    with pytest.raises(GateError) as caught:
        to(releases, "phi:staging")
    assert caught.value.failures == tuple(
        Failure(cell, "registered for 1.1.0, but phi:staging does not have this cell") for cell in CELLS[:2]
    )
    assert standing(releases) == {}


@pytest.mark.client_side
def test_every_failure_is_raised_as_data(releases: Ledger, tmp_path: Path) -> None:
    bundle = add(releases, tmp_path, "3.0.0", cells=CELLS[:2], kl_mean=0.2)
    releases.plan_release("phi", Version(3, 0, 0), CELLS)
    Path(releases.store.location_of(f"sha256:{bundle.manifest.files[0].sha256}")).unlink()
    with pytest.raises(GateError) as caught:
        to(releases, "phi:3.0.0")
    assert [failure.cell for failure in caught.value.failures] == ["galaxy-s24"] * 2 + ["iphone-15"] * 2 + ["pixel-9"]
    assert all(failure.problem in str(caught.value) for failure in caught.value.failures)
    assert standing(releases) == {}


@pytest.mark.parametrize("databases", [SQLITE], indirect=True)
def test_a_misspelt_model_gets_its_name(releases: Ledger) -> None:
    with pytest.raises(RegistryError, match="no model 'phj' is registered in ") as caught:
        rollback(releases, "phj", "production", who="bob@ci")
    assert caught.value.fix == "did you mean 'phi'?"


def test_a_move_makes_no_registry(tmp_path: Path) -> None:
    ledger = open_ledger(f"sqlite:///{tmp_path}/none/mlflow.db", FolderStore(tmp_path / "store"))
    for move in (back, lambda ledger: to(ledger, "phi:1.0.0")):
        with pytest.raises(RegistryError, match=f"no model 'phi' is registered in sqlite:///{tmp_path}"):
            move(ledger)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.client_side
def test_a_tag_alone_is_no_evidence(releases: Ledger, tmp_path: Path) -> None:
    add(releases, tmp_path, "2.0.0", cells=("pixel-9",), kl_mean=0.2)
    client_of(releases).set_model_version_tag("phi.pixel-9", "4", "phipack.gates", "passed")
    with pytest.raises(GateError, match=r"kl_mean is 0\.2"):
        to(releases, "phi:2.0.0")
    client_of(releases).set_model_version_tag("phi.pixel-9", "1", "phipack.gates", "failed")
    with pytest.raises(GateError, match=r"phipack\.gates says failed"):
        to(releases, "phi:1.0.0")
    assert standing(releases) == {}


@pytest.mark.parametrize("databases", [SQLITE, POSTGRESQL], indirect=True)  # whose files are within reach
def test_evidence_changed_in_mlflow_is_refused(releases: Ledger, tmp_path: Path) -> None:
    add(releases, tmp_path, "3.0.0")
    version = next(row for row in releases.versions("phi") if row.reference == "phi:3.0.0@pixel-9")
    folder = Path(releases.store.uri.removeprefix("file://"), "mlflow", "phi", version.run_id, "artifacts")
    path = folder / "evidence.json"
    path.write_text(path.read_text().replace("0.01", "0.00"))
    with pytest.raises(GateError, match=r"pixel-9: .*is not what was registered"):
        to(releases, "phi:3.0.0")
    path.unlink()
    with pytest.raises(GateError, match="pixel-9: MLflow at"):
        to(releases, "phi:3.0.0")
    assert standing(releases) == {}


@pytest.mark.client_side
def test_a_bundle_whose_bytes_are_gone_is_refused(releases: Ledger, tmp_path: Path) -> None:
    bundle = add(releases, tmp_path, "3.0.0")
    Path(releases.store.location_of(f"sha256:{bundle.manifest.files[0].sha256}")).unlink()
    with pytest.raises(GateError, match="is not in its store"):
        to(releases, "phi:3.0.0")
    assert standing(releases) == {}


@pytest.mark.client_side
@pytest.mark.parametrize("channel", ["latest", "v1", "Production", "1.0.0", "a_b", ""])
def test_channels_outside_mlflows_grammar_are_refused(ledger: Ledger, channel: str) -> None:
    with pytest.raises(MalformedReferenceError):
        to(ledger, "phi:1.0.0", channel)
    with pytest.raises(MalformedReferenceError):
        back(ledger, channel)


def test_promoters_at_once_leave_a_linear_history(releases: Ledger) -> None:
    barrier = threading.Barrier(3)

    def run(version: str) -> None:
        own = open_ledger(releases.uri, releases.store)
        own.models()
        barrier.wait()
        to(own, f"phi:{version}")

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(run, ("1.0.0", "1.1.0", "1.2.0")))
    moves = list(reversed(history(releases, "phi")))
    assert len(moves) == 3
    at: dict[str, VersionId | None] = dict.fromkeys(CELLS)
    for move in moves:
        for part in move.cells:
            assert part.before == at[part.cell]
            at[part.cell] = part.after
    assert standing(releases) == {cell: stand.release for cell, stand in at.items() if stand}
    assert len(set(standing(releases).values())) == 1


@pytest.mark.client_side
def test_promotion_runs_do_not_disturb_those_of_evidence(releases: Ledger) -> None:
    to(releases, "phi:1.0.0")
    kinds = [run.data.tags["phipack.kind"] for run in runs_of(releases)]
    assert sorted(set(kinds)) == ["cell", "move"]
    assert kinds.count("move") == 1


def test_who_is_user_and_host() -> None:
    user, at, host = current_user().partition("@")
    assert user
    assert at
    assert host
