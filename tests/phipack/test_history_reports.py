"""The history names the run with evidence and report of what was promoted, whatever was registered since."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import phipack
from devtools.bundles import make_bundle, make_evidence
from registry.ledger.channel_moves import with_runs
from targets.errors import RegistryError
from tests.support.command_line import InProcess
from tests.support.registrations import client_of, register_cells


@pytest.fixture
def registered(tmp_path: Path, migrated_database: Path) -> phipack.Registry:
    """phi 1.0.0 in one cell, in the registry of the working folder."""
    register_cells(tmp_path, migrated_database, {"iphone-15": {}})
    return phipack.Registry(home=tmp_path / ".phipack", user="ann")


def test_the_history_points_to_the_report_of_what_was_promoted(
    registered: phipack.Registry, command: InProcess
) -> None:
    (row,) = registered.resolve("phi:1.0.0")
    moved = command("--json", "promote", "phi:1.0.0", "--to", "production").document["result"]
    (move,) = command("--json", "history", "phi").document["result"]["moves"]
    assert move["cells"] == moved["cells"]
    assert (move["cells"][0]["run_id"], move["cells"][0]["run"]) == (row.run_id, f"runs:/{row.run_id}")
    said = command("history", "phi").stdout
    assert "its report, with the evidence" in said
    assert f"phi:1.0.0@iphone-15  runs:/{row.run_id}" in said
    retired = command("--json", "retire", "phi@iphone-15", "--from", "production").document["result"]
    assert (retired["cells"][0]["run_id"], retired["cells"][0]["run"]) == (None, None)
    back = command("--json", "rollback", "phi").document["result"]
    assert back["cells"][0]["run_id"] == row.run_id


def test_evidence_that_is_renewed_later_moves_no_link(registered: phipack.Registry, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "worse", {"model.gguf": b"worse"})
    before = registered.register(bundle, make_evidence(bundle, kl_mean=0.2), as_="phi:1.1.0@iphone-15")
    registered.promote("phi:1.1.0", to="production", override_reason="the demo")
    after = registered.register(bundle, make_evidence(bundle, kl_mean=0.02), as_="phi:1.1.0@iphone-15")
    assert before.run_id != after.run_id
    (move,) = registered.history("phi")
    assert move.cells[0].run_id == before.run_id
    older = replace(move, cells=tuple(replace(part, run_id="") for part in move.cells))
    assert with_runs([older], [after])[0].cells[0].run_id == ""  # its evidence is not that of then
    assert with_runs([older], [before])[0].cells[0].run_id == before.run_id


def test_a_record_of_an_older_phipack_is_completed(registered: phipack.Registry) -> None:
    (row,) = registered.resolve("phi:1.0.0")
    move = registered.promote("phi:1.0.0", to="production")
    client, tag = client_of(registered._ledger), "phipack.cell.iphone-15"
    kept = client.get_run(move.id).data.tags[tag]
    assert f'"run": "{row.run_id}"' in kept
    client.set_tag(move.id, tag, kept.replace(f', "run": "{row.run_id}"', ""))
    (found,) = registered.history("phi")
    assert found.cells[0].run_id == row.run_id
    client.set_tag(move.id, tag, kept.replace(f'"{row.run_id}"', "7"))
    with pytest.raises(RegistryError, match="damaged record"):
        registered.history("phi")


def test_no_link_holds_a_login(tmp_path: Path) -> None:
    registry = phipack.Registry("https://ann:secret@mlflow.example/base?token=abc", tmp_path, home=tmp_path)
    assert registry.run_link("f" * 32) == f"https://mlflow.example/base/#/runs/{'f' * 32}"


def test_the_report_that_is_kept_is_returned(registered: phipack.Registry, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "new", {"model.gguf": b"new"})
    row = registered.register(bundle, make_evidence(bundle), as_="phi:1.1.0@iphone-15", with_report=True)
    assert registered.stored_report(row.run_id).startswith(b"<!doctype html>")
    (bare,) = registered.resolve("phi:1.0.0")
    with pytest.raises(RegistryError, match=r"has no report that can be read") as caught:
        registered.stored_report(bare.run_id)
    assert "phipack report" in caught.value.fix


def test_evidence_of_one_cell_that_is_damaged_hides_no_other(registered: phipack.Registry, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "new", {"model.gguf": b"new"})
    registered.register(bundle, make_evidence(bundle), as_="phi:1.1.0@iphone-15")
    rows = registered.versions("phi")
    (file,) = (registered.home / "store" / "mlflow").rglob(f"{rows[0].run_id}/**/evidence.json")
    file.write_text("{}")
    damaged, whole = registered.evidence_of(rows)
    assert isinstance(damaged, phipack.PhipackError)
    assert isinstance(whole, phipack.Evidence)
    with pytest.raises(RegistryError, match="is not what was registered"):
        registered.show("phi:1.0.0")
    assert len(registered.show("phi:1.1.0")) == 1
