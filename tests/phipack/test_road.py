"""The main job by its commands, on tiny checkpoints: release, promote, fetch, generate."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from devtools.servers import RangeHandler, serving
from tests.support.checkpoints import write_tiny
from tests.support.command_line import PROJECT, TOO_SMALL, document_of, result_of, run_in, write_project


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, migrated_database: Path) -> Path:
    """A project whose version 1.0.0 is released and in production. Put everything back that you change."""
    folder = write_project(tmp_path_factory.mktemp("released") / "project", tiny_folder, migrated_database)
    phipack = run_in(folder)
    phipack("release")
    phipack("promote", "tiny:1.0.0", "--to", "production")
    return folder


def test_a_release_goes_its_way(project: Path) -> None:
    """Step by step in one project: each starts from what the ones before it left."""
    a_cell_that_does_not_fit_fails_the_release_and_loses_nothing_of_the_others(project)
    promotion_is_refused_while_a_planned_cell_is_missing(project)
    what_was_built_is_not_built_again(project)
    a_gate_that_fails_keeps_the_version_free_and_prints_the_gate(project)
    a_version_that_is_registered_with_other_bytes_is_refused(project)
    promotion_moves_all_cells_and_is_kept(project)
    a_late_job_with_the_old_checkpoint_changes_no_promoted_release(project)
    rollback_stands_where_the_channel_stood_before(project)


def a_cell_that_does_not_fit_fails_the_release_and_loses_nothing_of_the_others(project: Path) -> None:
    (project / "phipack.toml").write_text(PROJECT + TOO_SMALL, "utf-8")
    done = run_in(project)("--json", "release", expect=1)
    cells = {cell["cell"]: cell for cell in result_of(done)["cells"]}
    assert "does not fit" in cells["pocket"]["problem"]["problem"]
    assert "pocket" in document_of(done)["error"]["problem"]
    assert cells["iphone-15"]["problem"] is None
    assert cells["galaxy-s24"]["problem"] is None


def promotion_is_refused_while_a_planned_cell_is_missing(project: Path) -> None:
    done = run_in(project)("promote", "tiny:1.0.0", "--to", "production", expect=3)
    assert "pocket" in done.stderr
    assert "channels" not in run_in(project)("--json", "ls", "tiny").stdout.replace('"channels": []', "")


def what_was_built_is_not_built_again(project: Path) -> None:
    """Nor registered again: the same evidence, to the byte, and not one more run in MLflow."""
    (project / "phipack.toml").write_text(PROJECT, "utf-8")
    phipack = run_in(project)
    before, runs = shown(project), runs_in(project)
    cells = result_of(phipack("--json", "release"))["cells"]
    assert [(cell["built"], cell["measured"]) for cell in cells] == [(False, False)] * 2
    assert shown(project) == before
    assert runs_in(project) == runs == 3  # one a cell, and the release's, which they are below
    inputs = before[0]["inputs"]
    assert inputs["checkpoint"] == before[0]["checkpoint"]
    assert (inputs["evaluation.tokens"], inputs["evaluation.window"]) == ("256", "128")
    assert before[0]["evidence_digest"] == "sha256:" + hashlib.sha256(evidence_file(project)).hexdigest()


def shown(project: Path) -> list[dict[str, Any]]:
    return result_of(run_in(project)("--json", "show", "tiny:1.0.0"))["cells"]


def runs_in(project: Path) -> int:
    with sqlite3.connect(project / ".phipack" / "mlflow.db") as connection:
        return int(connection.execute("SELECT count(*) FROM runs").fetchone()[0])


def evidence_file(project: Path) -> bytes:
    run = shown(project)[0]["run_id"]
    (path,) = (project / ".phipack/store/mlflow/tiny").rglob(f"{run}/artifacts/evidence.json")
    return path.read_bytes()


def a_late_job_with_the_old_checkpoint_changes_no_promoted_release(project: Path) -> None:
    """One cell of the released version, from another checkpoint: refused before it is built, naming both."""
    write_tiny(project / "old", seed=7)
    late = PROJECT.replace('"checkpoint"\n', '"old"\n')
    (project / "late.toml").write_text(late, "utf-8")
    before, runs = shown(project), runs_in(project)
    refused = run_in(project)("release", "late.toml", "--only", "iphone-15", expect=1).stderr
    assert "tiny:1.0.0 is one release: its cell iphone-15 has checkpoint sha256:" in refused
    assert "and here it is sha256:" in refused
    longer = PROJECT.replace("tokens = 256", "tokens = 384")
    (project / "late.toml").write_text(longer, "utf-8")
    refused = run_in(project)("release", "late.toml", expect=1).stderr
    assert "has evaluation.tokens 256, and here it is 384" in refused
    more = PROJECT + '\n[[cells]]\nname = "more"\ntarget = "iphone-15"\nrecipe = "gguf-q8_0"\n'
    (project / "late.toml").write_text(more, "utf-8")
    refused = run_in(project)("release", "late.toml", expect=1).stderr
    assert "tiny:1.0.0 was promoted to production on" in refused
    assert (shown(project), runs_in(project)) == (before, runs)
    phipack = run_in(project)
    assert "nothing to move" in phipack("promote", "tiny:1.0.0", "--to", "production").stdout


def a_gate_that_fails_keeps_the_version_free_and_prints_the_gate(project: Path) -> None:
    strict = PROJECT.replace('version = "1.0.0"', 'version = "1.1.0"').replace("at_most = 0.5", "at_most = 1e-9")
    (project / "phipack.toml").write_text(strict, "utf-8")
    done = run_in(project)("release", expect=3)
    assert "kl_mean" in done.stderr
    assert "<= 1e-09" in done.stderr
    assert "1.1.0" not in run_in(project)("ls").stdout


def a_version_that_is_registered_with_other_bytes_is_refused(project: Path) -> None:
    (project / "phipack.toml").write_text(PROJECT.replace("gguf-q8_0", "gguf-f16"), "utf-8")
    done = run_in(project)("release", expect=1)
    assert "galaxy-s24" in done.stderr
    assert "1.0.0" in done.stderr
    (project / "phipack.toml").write_text(PROJECT, "utf-8")


def promotion_moves_all_cells_and_is_kept(project: Path) -> None:
    phipack = run_in(project)
    phipack("promote", "tiny:1.0.0", "--to", "production", "--reason", "the first")
    rows = result_of(phipack("--json", "ls", "tiny"))["versions"]
    assert [row["channels"] for row in rows] == [["production"]] * 2
    (move,) = result_of(phipack("--json", "history", "tiny"))["moves"]
    assert move["reason"] == "the first"
    assert move["user"]
    assert {cell["cell"]: cell["after"]["version"] for cell in move["cells"]} == {
        "galaxy-s24": "1.0.0",
        "iphone-15": "1.0.0",
    }


def rollback_stands_where_the_channel_stood_before(project: Path) -> None:
    phipack = run_in(project)
    (project / "phipack.toml").write_text(PROJECT.replace('version = "1.0.0"', 'version = "1.2.0"'), "utf-8")
    phipack("release")
    phipack("promote", "tiny:1.2.0", "--to", "production")
    phipack("rollback", "tiny", "--reason", "second thoughts")
    rows = result_of(phipack("--json", "ls", "tiny"))["versions"]
    assert {row["version"] for row in rows if "production" in row["channels"]} == {"1.0.0"}


def test_show_prints_the_evidence(released: Path) -> None:
    text = run_in(released)("show", "tiny:1.0.0@iphone-15").stdout
    assert "kl_mean" in text
    assert "measured" in text
    assert "predicted" in text


@pytest.mark.parametrize(
    "reference", ["tiny:1.0.0@iphone-15", "tiny:production@iphone-15", "tiny:^1.0@iphone-15", "tiny@galaxy-s24"]
)
def test_fetch_gives_the_verified_bundle(released: Path, tmp_path: Path, reference: str) -> None:
    phipack = run_in(released)
    phipack("fetch", reference, "-o", str(tmp_path / "bundle"))
    assert "(verified)" in phipack("inspect", "--verify", str(tmp_path / "bundle")).stdout


def test_a_channel_is_published_and_a_phone_fetches_its_bundle(released: Path, tmp_path: Path) -> None:
    phipack = run_in(released)
    phipack("keys", "init")
    published = result_of(phipack("--json", "publish", "tiny", "--to", "web", "--new-catalog"))
    assert [cell["cell"] for cell in published["cells"]] == ["galaxy-s24", "iphone-15"]
    environment = {"PHIPACK_STATE": str(tmp_path / "state")}
    with serving(released / "web", kind=RangeHandler) as url:
        command = ("fetch", url, "--device", "iPhone15,4", "-o", str(tmp_path / "app"))
        assert "--root" in run_in(released, environment)(*command, expect=1).stderr
        done = run_in(released, environment)("--json", *command, "--root", ".phipack/keys/1.root.json")
        found = result_of(done)
        assert found["reference"] == "tiny:1.0.0@iphone-15"
        assert "iPhone15,4 is a device of iphone-15" in found["reasons"]
    assert "(verified)" in phipack("inspect", "--verify", str(tmp_path / "app")).stdout
    assert "valid until" in phipack("publish", "--refresh", "--to", "web").stdout
    phipack("fetch", str(tmp_path / "app"), "--device", "iPhone15,4", "-o", str(tmp_path / "x"), expect=2)


def test_a_changed_byte_in_the_store_is_refused(released: Path, tmp_path: Path) -> None:
    phipack, reference = run_in(released), "tiny:1.0.0@iphone-15"
    blobs = released / ".phipack/store/blobs/sha256"
    (row,) = result_of(phipack("--json", "show", reference))["cells"]
    digest = row["digest"].removeprefix("sha256:")
    files = json.loads((blobs / digest[:2] / digest).read_bytes())["files"]
    weights = max(files, key=lambda file: file["bytes"])["sha256"]
    blob = blobs / weights[:2] / weights
    blob.chmod(0o644)
    original = blob.read_bytes()
    try:
        blob.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
        done = phipack("fetch", reference, "-o", str(tmp_path / "out"), expect=1)
        assert weights in done.stderr
        assert list(tmp_path.iterdir()) == []
    finally:
        blob.write_bytes(original)
        blob.chmod(0o444)


def test_generate_runs_both_runtimes_and_stops(released: Path, tmp_path: Path) -> None:
    phipack = run_in(released)
    for cell in ("iphone-15", "galaxy-s24"):
        phipack("fetch", f"tiny:1.0.0@{cell}", "-o", str(tmp_path / cell))
        answer = result_of(phipack("--json", "generate", str(tmp_path / cell), "Hello", "--max-tokens", "4"))
        assert isinstance(answer["text"], str)


def test_validate_holds_a_bundle_against_gates_of_its_own(released: Path, tmp_path: Path) -> None:
    phipack = run_in(released)
    bundle, evidence = str(tmp_path / "bundle"), tmp_path / "evidence.json"
    phipack("build", "checkpoint", "--recipe", "gguf-f16", "--target", "iphone-15", "-o", bundle)
    common = ("validate", bundle, "--against", "checkpoint", "--tokens", "256", "--target", "iphone-15")
    phipack(*common, "--gate", "kl_mean<=1e-4", "--gate", "same_top_share>=0.9", "-o", str(evidence))
    found = json.loads(evidence.read_bytes())
    assert found["figures"]["kl_mean"]["kind"] == "measured"
    assert found["figures"]["predicted_memory_bytes"]["kind"] == "predicted"
    failed = phipack(*common, "--gate", "kl_mean<=1e-12", expect=3)
    assert "FAIL" in failed.stdout
    assert "kl_mean" in failed.stderr


def test_a_matrix_job_builds_its_cell_and_promotion_waits_for_the_others(tmp_path: Path) -> None:
    """As in CI: each job runs `--only` its own cell, in whatever order."""
    write_tiny(tmp_path / "checkpoint")
    (tmp_path / "phipack.toml").write_text(PROJECT, "utf-8")
    phipack = run_in(tmp_path)
    phipack("release", "--only", "galaxy-s24")
    assert "iphone-15" in phipack("promote", "tiny:1.0.0", "--to", "production", expect=3).stderr
    phipack("promote", "tiny:1.0.0@galaxy-s24", "--to", "staging")
    assert "galaxy-s42" in phipack("release", "--only", "galaxy-s42", expect=1).stderr
