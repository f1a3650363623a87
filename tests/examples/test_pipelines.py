"""The pipelines of GitLab and Buildkite: their first step is run, by bash, and reads the checkpoint once."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.command_line import command_environment, result_of, run_in, write_project

ROOT = Path(__file__).parents[2]
PIPELINES = ROOT / "examples" / "ci"
READS = ("plan", "matrix")  # commands that hash the checkpoint


class _Loader(yaml.SafeLoader):
    """Reads GitLab's `!reference [JOB, KEY]` as a list."""


_Loader.add_constructor("!reference", lambda loader, node: loader.construct_sequence(node))


@pytest.fixture
def here(tmp_path: Path, tiny_folder: Path, migrated_database: Path) -> Path:
    """A repository with a project file and its checkpoint, and the programs that a runner has."""
    here = write_project(tmp_path / "here", tiny_folder, migrated_database)
    programs = {
        "phipack": f'echo "$1" >> "{tmp_path}/commands"; exec "{sys.executable}" -m phipack "$@"',
        "python": f'exec "{sys.executable}" "$@"',
        "buildkite-agent": f'[ "$*" = "pipeline upload" ] && cat > "{tmp_path}/uploaded.json"',
    }
    (tmp_path / "bin").mkdir()
    for name, script in programs.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{script}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    (here / "ci").mkdir()
    (here / "ci" / "checkpoint.sh").write_text("test -d checkpoint\n")
    shutil.copy(PIPELINES / "phipack.gitlab-ci.yml", here / "ci")
    return here


def shell(here: Path, lines: list[str]) -> str:
    """Run a step's lines; return what it said. It reads the checkpoint once."""
    environment = command_environment() | {"PYTHONPATH": str(ROOT)}
    environment["PATH"] = f"{here.parent / 'bin'}:{environment['PATH']}"
    script = "\n".join(["set -euo pipefail", *lines])
    done = subprocess.run(
        ["bash", "-c", script], cwd=here, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    commands = (here.parent / "commands").read_text().split()
    assert [command for command in commands if command in READS] == ["matrix"]
    return done.stderr


def pipeline(name: str) -> Any:
    return yaml.load((PIPELINES / name).read_text("utf-8"), _Loader)


def test_gitlab_plans_with_one_reading_of_the_checkpoint(here: Path) -> None:
    (here / "plan.env").write_text("CHECKPOINT=sha256:of-an-earlier-run\n")
    said = shell(here, pipeline("gitlab-ci.yml")["plan"]["script"])

    planned = run_in(here)
    assert (here / "plan.env").read_text() == f"CHECKPOINT={result_of(planned('--json', 'plan'))['checkpoint']}\n"
    assert planned("plan").stdout in said
    child = json.loads((here / "cells.yml").read_text())
    assert child.pop("include") == [{"local": "ci/phipack.gitlab-ci.yml"}]
    assert all(job["script"][0].startswith("phipack release --defer-registration --job ") for job in child.values())


def test_buildkite_plans_with_one_reading_of_the_checkpoint(here: Path) -> None:
    (here / ".buildkite").mkdir()
    shutil.copyfile(PIPELINES / "buildkite_steps.py", here / ".buildkite" / "buildkite_steps.py")
    (step,) = pipeline("buildkite.yml")["steps"]
    said = shell(here, step["command"])

    planned = run_in(here)
    assert planned("plan").stdout in said
    steps = json.loads((here.parent / "uploaded.json").read_text())["steps"]
    assert steps[0]["command"][1].startswith("phipack release --defer-registration --job ")
    digest = result_of(planned("--json", "plan"))["checkpoint"]
    assert (
        f"--finish --checkpoint-digest {digest} " in next(one for one in steps if one.get("key") == "finish")["command"]
    )


def test_no_digest_of_an_earlier_run_stays_where_there_is_no_matrix(here: Path) -> None:
    (here / "plan.env").write_text("CHECKPOINT=sha256:of-an-earlier-run\n")
    shutil.rmtree(here / "checkpoint")
    run_in(here)("matrix", "--format", "gitlab", "--dotenv", "plan.env", expect=1)
    assert not (here / "plan.env").exists()
