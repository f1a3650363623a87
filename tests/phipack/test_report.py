"""`phipack report`: a page of what is registered, or of a folder with its evidence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import phipack
from devtools.bundles import make_bundle, make_evidence
from phipack.api import reporting
from targets.errors import StoreError
from tests.support.command_line import InProcess
from tests.support.registrations import register_cells


@pytest.fixture
def registered(tmp_path: Path, migrated_database: Path) -> phipack.Registry:
    """phi 1.0.0 in two cells, in the registry of the working folder; 1.1.0 in one of them."""
    register_cells(tmp_path, migrated_database, {"iphone-15": {}, "pixel-9": {}})
    registry = phipack.Registry(home=tmp_path / ".phipack", user="ann")
    bundle = make_bundle(tmp_path / "newer", {"model.gguf": b"newer"})
    registry.register(bundle, make_evidence(bundle, kl_mean=0.04), as_="phi:1.1.0@iphone-15")
    registry.plan_release("phi:1.1.0", ["iphone-15", "pixel-9"])
    return registry


def test_a_release_is_compared_with_what_production_has(registered: phipack.Registry, command: InProcess) -> None:
    registered.promote("phi:1.0.0", to="production", reason="the first")
    said = command("report", "phi:1.1.0", "-o", "report.html").stdout
    assert "phi:1.1.0: Does not pass: 1 planned cell not registered: pixel-9" in said
    assert "compared with phi:production" in said
    page = Path("report.html").read_text("utf-8")
    for shown in ("Side by side with phi:1.0.0@iphone-15", "the first", "planned and not registered: pixel-9"):
        assert shown in page
    found = command("--json", "report", "phi:production", "-o", "production.html").document["result"]
    assert (found["against"], found["state"]) == (None, "pass")
    assert [cell["cell"] for cell in found["cells"]] == ["iphone-15", "pixel-9"]
    assert "compared with phi:1.0.0" in command("report", "phi:1.1.0", "--against", "phi:1.0.0", "-o", "r.html").stdout


def test_two_cells_of_one_release_have_whole_names(registered: phipack.Registry) -> None:
    page = registered.report("phi:1.0.0@iphone-15", against="phi:1.0.0@pixel-9").html.decode()
    assert '<th scope="col">phi:1.0.0@pixel-9</th><th scope="col">phi:1.0.0@iphone-15</th>' in page.replace(
        ' role="columnheader"', ""
    )


def test_why_a_release_is_made_is_where_it_is_looked_at(registered: phipack.Registry, command: InProcess) -> None:
    reason = "Answers in German were <too> short.\nThe checkpoint was trained further."
    registered.plan_release("phi:1.1.0", ["iphone-15", "pixel-9"], reason=reason)
    page = registered.report("phi:1.1.0").html.decode()
    assert "in its makers' words: <q>Answers in German were &lt;too&gt; short.\nThe checkpoint" in page
    assert "in its makers' words" not in registered.report("phi:1.0.0").html.decode()
    assert (registered.reason("phi:1.1.0"), registered.reason("phi:1.0.0")) == (reason, "")
    shown = command("show", "phi:1.1.0").stdout
    assert "reason      Answers in German were <too> short. The checkpoint was trained further.\n" in shown
    assert command("--json", "show", "phi:1.1.0").document["result"]["cells"][0]["reason"] == reason
    assert "reason " not in command("show", "phi:1.0.0").stdout
    assert command("--json", "show", "phi:1.0.0").document["result"]["cells"][0]["reason"] is None


def test_the_kl_that_is_twice_as_high_is_a_finding(registered: phipack.Registry) -> None:
    page = registered.report("phi:1.1.0@iphone-15", against="phi:1.0.0@iphone-15")
    assert page.state == "warn"
    assert page.verdict.startswith("Passes its gates; look at: 1 thing to judge.")
    (found,) = (text for severity, text in page.cells[0].findings if severity == "look")
    assert found == (
        "mean KL divergence of the bundle's next-token distribution from the reference's: 0.04 nat, 300% worse than"
        " 0.01 nat of phi:1.0.0@iphone-15."
    )


def test_what_the_recipe_had_in_other_releases_is_next_to_its_kl(registered: phipack.Registry, tmp_path: Path) -> None:
    """Production need not be one of them: a reviewer asks what is usual for the recipe."""
    same = "Other releases with gguf-q4_0, same text: 0.01 nat in phi:1.0.0@"
    assert same in registered.report("phi:1.1.0").html.decode()
    for number, kl_mean in ((2, 0.02), (3, 9.0)):  # the second one fails its gate, and is no measure
        bundle = make_bundle(tmp_path / f"other{number}", {"model.gguf": bytes([number])})
        registered.register(bundle, make_evidence(bundle, kl_mean=kl_mean), as_=f"phi:1.{number}.0@iphone-15")
    newest_first = "same text: 0.02 nat in phi:1.2.0@iphone-15, 0.01 nat in phi:1.0.0@"
    assert newest_first in registered.report("phi:1.1.0").html.decode()
    bundle = make_bundle(tmp_path / "kept", {"model.gguf": b"kept"})
    row = registered.register(bundle, make_evidence(bundle), as_="phi:1.4.0@iphone-15", with_report=True)
    kept = registered._ledger.mlflow.read_file(row.run_id, "report.html").decode()
    assert "4 other releases with gguf-q4_0, same text: 0.01 nat to 0.04 nat" in kept


def test_a_folder_is_reported_with_its_evidence_alone(command: InProcess, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    Path("evidence.json").write_text(make_evidence(bundle).to_json(), "utf-8")
    assert "all 1 gate" in command("report", "./bundle", "--evidence", "evidence.json", "-o", "report.html").stdout
    other = make_bundle(tmp_path / "other", {"model.gguf": b"other"})
    Path("other.json").write_text(make_evidence(other).to_json(), "utf-8")
    failed = command("report", "./bundle", "--evidence", "other.json", "-o", "none.html", expect=1)
    assert "the evidence is of bundle" in failed.stderr
    assert "needs --evidence FILE" in command("report", "./bundle", "-o", "none.html", expect=2).stderr
    assert "takes none" in command("report", "phi", "--evidence", "other.json", "-o", "none.html", expect=2).stderr
    both = ("report", "./bundle", "--evidence", "other.json", "--against", "phi", "-o", "none.html")
    assert "--against compares what is registered" in command(*both, expect=2).stderr
    assert not Path("none.html").exists()


@pytest.mark.usefixtures("registered")
def test_what_can_not_be_reported_leaves_no_file(command: InProcess, tmp_path: Path) -> None:
    assert "no version matches phi:2.0.0" in command("report", "phi:2.0.0", "-o", "none.html", expect=1).stderr
    for file in (tmp_path / ".phipack" / "store" / "mlflow").rglob("evidence.json"):
        file.write_text(json.dumps({"schema": "phipack.evidence/1"}))
    failed = command("report", "phi:1.1.0", "-o", "none.html", expect=1)
    assert "phi:1.1.0@iphone-15 has no evidence to report" in failed.stderr
    assert "fix: run phipack release again" in failed.stderr
    assert not Path("none.html").exists()


def test_cells_are_paired_by_name_unless_one_cell_is_named(registered: phipack.Registry) -> None:
    registered.promote("phi:1.0.0@pixel-9", to="production", override_reason="one cell alone")
    assert "Side by side" not in registered.report("phi:1.1.0").html.decode()
    other = registered.report("phi:1.1.0", against="phi:1.0.0@pixel-9").html.decode()
    assert "Side by side with phi:1.0.0@pixel-9" in other


def test_a_cell_that_a_channel_does_not_have_is_not_called_unregistered(registered: phipack.Registry) -> None:
    registered.plan_release("phi:1.0.0", ["iphone-15", "pixel-9"])
    registered.promote("phi:1.0.0@iphone-15", to="production", override_reason="one cell alone")
    page = registered.report("phi:production")
    assert page.verdict == "Does not pass: 1 planned cell registered, but not in phi:production: pixel-9"
    assert "planned and registered, but not in phi:production: pixel-9" in page.html.decode()
    assert "not registered" not in page.html.decode()


def test_one_cell_without_evidence_does_not_hide_the_others(registered: phipack.Registry) -> None:
    _evidence_file(registered, "phi:1.0.0@pixel-9").write_text("{}")
    page = registered.report("phi:1.0.0")
    assert {cell.cell: cell.state for cell in page.cells} == {"iphone-15": "pass", "pixel-9": "fail"}
    assert page.verdict == "Does not pass: 1 of 2 cells: pixel-9"
    assert page.cells[1].findings[0][1].startswith("Its evidence can't be read: ")


def test_what_production_has_may_be_unreadable(registered: phipack.Registry) -> None:
    registered.promote("phi:1.0.0", to="production", reason="the first")
    _manifest_file(registered, "phi:1.0.0@iphone-15").unlink()
    (cell,) = registered.report("phi:1.1.0").cells
    said, worse = (text for severity, text in cell.findings if severity == "look")
    assert "phi:1.0.0@iphone-15 can't be read: " in said
    assert "300% worse than 0.01 nat of phi:1.0.0@iphone-15" in worse
    assert said.startswith("Compared by the recorded evidence alone")
    page = registered.report("phi:1.1.0").html.decode()
    assert "Next to phi:production: compared by its evidence alone" in page
    assert "Side by side with phi:1.0.0@iphone-15" in page
    _evidence_file(registered, "phi:1.0.0@iphone-15").write_text("{}")
    (cell,) = registered.report("phi:1.1.0").cells
    (said,) = (text for severity, text in cell.findings if severity == "look")
    assert said.startswith("Compared with nothing: phi:1.0.0@iphone-15 can't be read: ")


def test_what_can_not_be_compared_is_not_called_an_unreadable_production(
    registered: phipack.Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file may be the candidate's."""

    def refuse(*_: object, **__: object) -> None:
        raise StoreError("blob sha256:aa is missing", fix="none")

    registered.promote("phi:1.0.0", to="production", reason="the first")
    monkeypatch.setattr(reporting, "compare", refuse)
    (cell,) = registered.report("phi:1.1.0").cells
    problem = "files of it and of phi:1.0.0@iphone-15 can't be compared: blob sha256:aa is missing"
    looks = [text for severity, text in cell.findings if severity == "look"]
    assert [text for text in looks if text.startswith("Compared by the recorded") and text.endswith(f": {problem}.")]
    assert not [text for text in looks if "can't be read" in text]


def test_an_unreadable_production_prevents_no_registration(registered: phipack.Registry, tmp_path: Path) -> None:
    registered.promote("phi:1.0.0", to="production", reason="the first")
    _manifest_file(registered, "phi:1.0.0@iphone-15").unlink()
    said: list[object] = []
    registry = phipack.Registry(home=registered.home, user="ann", on_progress=said.append)
    bundle = make_bundle(tmp_path / "newest", {"model.gguf": b"newest"})
    row = registry.register(bundle, make_evidence(bundle), as_="phi:1.2.0@iphone-15", with_report=True)
    page = registry._ledger.mlflow.read_file(row.run_id, "report.html").decode()
    assert "Side by side with phi:1.0.0@iphone-15" in page
    assert [one for one in said if "by the recorded evidence alone: phi:1.0.0@iphone-15" in str(one)]
    _evidence_file(registered, "phi:1.0.0@iphone-15").write_text("{}")
    other = make_bundle(tmp_path / "other", {"model.gguf": b"other"})
    row = registry.register(other, make_evidence(other), as_="phi:1.3.0@iphone-15", with_report=True)
    page = registry._ledger.mlflow.read_file(row.run_id, "report.html").decode()
    assert "Compared with nothing: the other release can" in page
    assert "Compared with nothing: phi:1.0.0@iphone-15 can" in page
    assert [one for one in said if "compares it with nothing: phi:1.0.0@iphone-15" in str(one)]


def _evidence_file(registry: phipack.Registry, reference: str) -> Path:
    (row,) = registry.resolve(reference)
    (file,) = (registry.home / "store" / "mlflow").rglob(f"{row.run_id}/**/evidence.json")
    return file


def _manifest_file(registry: phipack.Registry, reference: str) -> Path:
    (row,) = registry.resolve(reference)
    (file,) = (registry.home / "store" / "blobs").rglob(row.digest.removeprefix("sha256:"))
    return file


@pytest.mark.usefixtures("registered")
def test_a_place_that_can_not_be_written_is_found_beforehand(command: InProcess) -> None:
    assert "/dev/full is no file of its own" in command("report", "phi:1.0.0", "-o", "/dev/full", expect=1).stderr
    Path("file").write_text("a file")
    assert "file" in command("report", "phi:1.0.0", "-o", "file/report.html", expect=1).stderr
    command("report", "phi:1.0.0", "-o", "made/on/the/way/report.html")
    assert Path("made/on/the/way/report.html").read_text("utf-8").startswith("<!doctype html>")
