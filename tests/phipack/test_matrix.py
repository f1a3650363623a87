"""A release as a CI matrix: planned here, done there without MLflow, finished elsewhere without the checkpoint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import PROJECT, TOO_SMALL, Run, result_of, run_in

NOWHERE = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}  # which refuses: what must not ask MLflow fails if it does


def clone(project: Path, name: str, *, checkpoint: bool = True) -> Path:
    """The project on another machine."""
    folder = project.parent / name
    folder.mkdir()
    for file in ("phipack.toml", "pocket.toml"):
        shutil.copyfile(project / file, folder / file)
    if checkpoint:
        (folder / "checkpoint").symlink_to(project / "checkpoint")
    return folder


def on(folder: Path, project: Path, **environment: str) -> Run:
    """Run there with the project's store."""
    return run_in(folder, NOWHERE | {"PHIPACK_STORE": str(project / ".phipack/store")} | environment)


def states(document: Any) -> dict[str, str]:
    return {job["name"].rpartition("-")[0]: job["state"] for job in document["jobs"]}


def shown(run: Run) -> list[dict[str, Any]]:
    cells = result_of(run("--json", "show", "tiny:1.0.0"))["cells"]
    return [
        {name: cell[name] for name in ("cell", "digest", "evidence_digest", "inputs", "evidence")} for cell in cells
    ]


def test_two_machines_make_what_one_process_makes(project: Path) -> None:
    """Step by step: each starts from what the ones before it left in the store."""
    here = on(project, project, MLFLOW_TRACKING_URI=f"sqlite:///{project}/.phipack/mlflow.db")
    planned = result_of(here("--json", "plan"))
    assert [job["done"] for job in planned["jobs"]] == [False] * 5
    assert not (project / ".phipack/store").exists()  # a plan writes nothing
    groups = result_of(here("--json", "matrix", "--format", "json", "--shards", "2"))["groups"]
    assert [group["machine"] for group in groups] == ["any", "any"]

    first = on(clone(project, "first"), project)
    done = result_of(first("--json", "release", "--defer-registration", "--job", *groups[0]["last_jobs"]))
    assert states(done) == {
        "calibrate-light": "done",
        "build-onnx-int4-light-512": "done",
        "validate-onnx-int4-light-512": "done",
    }
    cells_that_are_missing_are_named_with_their_job(here)

    second = on(clone(project, "second"), project)
    done = result_of(second("--json", "release", "--defer-registration", "--only", "galaxy-s24"))
    assert states(done) == {"build-gguf-q8_0-512": "done", "validate-gguf-q8_0-512": "done"}
    assert result_of(second("--json", "release", "--defer-registration"))["jobs"] == []  # all is recorded
    an_empty_matrix_is_valid_everywhere(second)

    last = clone(project, "last", checkpoint=False)
    ledger = {"MLFLOW_TRACKING_URI": f"sqlite:///{last}/mlflow.db"}
    shutil.copyfile(project / ".phipack/mlflow.db", last / "mlflow.db")
    finish = on(last, project, **ledger)
    digest = planned["checkpoint"]
    assert "is not here" in finish("release", "--finish", "--checkpoint-digest", "sha256:" + "0" * 64, expect=1).stderr
    assert result_of(finish("--json", "plan", "--checkpoint-digest", digest))["checkpoint"] == digest
    cells = result_of(finish("--json", "release", "--finish", "--checkpoint-digest", digest))["cells"]
    assert [(cell["built"], cell["measured"], cell["registered"]) for cell in cells] == [(False, False, True)] * 2
    result_of(here("--json", "release"))
    assert shown(here) == shown(finish)
    finish("promote", "tiny:1.0.0", "--to", "production")


def cells_that_are_missing_are_named_with_their_job(here: Run) -> None:
    done = here("--json", "release", "--finish", expect=1)
    cells = {cell["cell"]: cell for cell in result_of(done)["cells"]}
    assert cells["iphone-15"]["problem"] is None
    problem = cells["galaxy-s24"]["problem"]
    assert "not done: build-gguf-q8_0-512-" in problem["problem"]
    assert "phipack release --defer-registration --job validate-gguf-q8_0-512-" in problem["fix"]
    assert [cell["registered"] for cell in cells.values()] == [False, False]
    assert result_of(here("--json", "ls"))["versions"] == []


def an_empty_matrix_is_valid_everywhere(run: Run) -> None:
    assert run("matrix", "--format", "github").stdout == '{"include":[]}\n'
    pipeline = json.loads(run("matrix", "--format", "gitlab").stdout)
    assert list(pipeline) == ["nothing-to-do"]
    assert pipeline["nothing-to-do"]["script"]


def test_a_matrix_for_github_and_gitlab(project: Path) -> None:
    run = on(project, project)
    (entry,) = json.loads(run("matrix", "--format", "github").stdout)["include"]
    assert entry.keys() == {"name", "machine", "labels", "jobs", "cells", "minutes"}
    assert (entry["machine"], entry["cells"]) == ("any", ["iphone-15", "galaxy-s24"])
    assert entry["name"].startswith("onnx-int4-light-512-")
    assert entry["name"].endswith("-and-1-more")
    (project / ".gitlab").mkdir()
    (project / ".gitlab/phipack.yml").write_text(".phipack: {image: python}\n", "utf-8")
    pipeline = json.loads(run("matrix", "--format", "gitlab", "--template", ".gitlab/phipack.yml").stdout)
    assert pipeline.pop("include") == [{"local": ".gitlab/phipack.yml"}]
    jobs = " ".join(f"--job {name}" for name in entry["jobs"].split())
    script = [f"phipack release --defer-registration {jobs}"]
    assert pipeline == {entry["name"]: {"extends": ".phipack", "script": script}}
    table = run("plan").stdout
    assert "build-onnx-int4-light-512-" in table
    assert "calibrate-light-" in table
    assert "0 jobs done, 5 to do" in table


def test_a_step_on_github_gets_matrix_and_checkpoint_from_one_reading(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs, summary = tmp_path / "outputs", tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_OUTPUT", str(outputs))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    run = on(project, project)
    printed = run("matrix", "--format", "github", "--github").stdout

    written = dict(line.split("=", 1) for line in outputs.read_text().splitlines())
    assert written["matrix"] + "\n" == printed
    assert written["checkpoint"] == result_of(run("--json", "plan"))["checkpoint"]
    assert summary.read_text() == f"```\n{run('plan').stdout.rstrip()}\n```\n"
    monkeypatch.delenv("GITHUB_OUTPUT")
    assert "GITHUB_OUTPUT" in on(project, project)("matrix", "--format", "github", "--github", expect=2).stderr
    assert "--github is for --format github" in run("matrix", "--format", "json", "--github", expect=2).stderr


def test_speed_of_core_ml_needs_a_mac(project: Path) -> None:
    gates = "gates = { decode_tokens_per_second = { at_least = 1 } }"
    cell = f'\n[[cells]]\nname = "mac"\ntarget = "iphone-15"\nrecipe = "coreml-int4"\n{gates}\n'
    (project / "phipack.toml").write_text(PROJECT + cell, "utf-8")
    run = on(project, project)
    groups = result_of(run("--json", "matrix", "--format", "json"))["groups"]
    assert [(group["machine"], group["cells"]) for group in groups] == [
        ("any", ["iphone-15", "galaxy-s24"]),
        ("macos", ["mac"]),
    ]
    (name,) = groups[1]["last_jobs"]
    refused = run("release", "--defer-registration", "--job", name, expect=1).stderr
    assert f"{name} needs a machine with macos" in refused


def test_what_can_not_be_finished_is_no_matrix(project: Path) -> None:
    (project / "phipack.toml").write_text(PROJECT + TOO_SMALL, "utf-8")
    run = on(project, project)
    for command in (("plan",), ("matrix", "--format", "json"), ("release", "--defer-registration")):
        assert "pocket" in run(*command, expect=1).stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--dry-run", "--finish"), "exclude one another"),
        (("--job", "x"), "--job needs --defer-registration"),
        (("--finish", "--only", "iphone-15"), "takes no --only"),
        (("--checkpoint-digest", "sha256:0"), "needs --finish"),
    ],
)
def test_options_that_do_not_go_together(project: Path, arguments: tuple[str, ...], said: str) -> None:
    assert said in run_in(project)("release", *arguments, expect=2).stderr


def test_a_job_of_another_plan_is_refused(project: Path) -> None:
    refused = on(project, project)("release", "--defer-registration", "--job", "build-gguf-q8_0-512-00000000", expect=1)
    assert "no job 'build-gguf-q8_0-512-00000000' here" in refused.stderr
