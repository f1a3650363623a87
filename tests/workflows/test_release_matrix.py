"""The workflow that users call, run by the tests' own runner: two clones, PostgreSQL, S3 and MLflow as `make services`.

Half of the cells are in each clone. The first run loses a machine; the second does what is missing, registers, and
promotes. The same release by one process has the same bundles and the same registry.
"""

from __future__ import annotations

import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from devtools.services.mlflow_server import MlflowSettings, running_mlflow
from devtools.services.postgresql import running_postgresql
from devtools.services.seaweedfs import running_seaweedfs
from registry.ledger.ledger import Ledger, open_ledger
from registry.ledger.versions import CellVersion
from registry.store.uris import open_store
from tests.support.checkpoints import write_tiny
from tests.support.command_line import PROJECT, command_environment
from tests.support.workflow_runner import JobRun, Runner, host_environment

ROOT = Path(__file__).parents[2]
WORKFLOW = ROOT / ".github" / "workflows" / "release-matrix.yml"
SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


@dataclass
class Team:
    """What a team has: a repository, a registry and a store; and its runners' machines."""

    folder: Path
    tracking_uri: str
    store: str
    s3: dict[str, str]
    loses_a_machine: bool = False

    @property
    def repository(self) -> Path:
        return self.folder / "repository"

    def run(self) -> dict[str, list[JobRun]]:
        """Run the whole workflow once."""
        runner = Runner(
            WORKFLOW,
            inputs={
                "store": self.store,
                "tracking-uri": self.tracking_uri,
                "prepare": "ci/checkpoint.sh",
                "promote-to": "production",
                "reason": "passed review",
                "shards": "2",
            },
            secrets={name: self.s3[name] for name in SECRETS},
            environment=host_environment()
            | {name: value for name, value in self.s3.items() if name not in SECRETS}
            | {"PATH": f"{self.folder / 'bin'}:{host_environment()['PATH']}"},
            workspace=self.clone,
            actions={
                "actions/checkout": lambda _asked, _folder: None,
                "$/.github/actions/phipack": lambda _asked, _folder: None,
                "actions/upload-artifact": lambda _asked, _folder: None,
            },
            before_step=self.fail_one,
        )
        return runner.run()

    def clone(self, run: JobRun) -> Path:
        """Clone the repository for a run of a job: nothing of another machine is in it."""
        folder = Path(self.folder / "machines" / f"{run.name}-{len(list((self.folder / 'machines').glob('*')))}")
        folder.parent.mkdir(exist_ok=True)
        subprocess.run(["git", "clone", "--quiet", self.repository, folder], check=True)
        return folder

    def fail_one(self, run: JobRun, step: dict[str, Any]) -> dict[str, str]:
        """Lose one machine, in the middle of its first build."""
        if self.loses_a_machine and run.name == "cells" and "--defer-registration" in step["run"]:
            self.loses_a_machine = False
            return {"LOSE_THIS_MACHINE": "1"}
        return {}

    def ledger(self) -> Ledger:
        return open_ledger(self.tracking_uri, open_store(self.store))


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    folder = tmp_path_factory.mktemp("team")
    with ExitStack() as stack:
        open_to_all = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="phipack-team-")))
        open_to_all.chmod(0o711)  # pytest's own folder is not: PostgreSQL may be another user
        postgresql = stack.enter_context(running_postgresql(open_to_all / "postgresql", durable=False))
        database = postgresql.make_database("mlflow")
        s3 = stack.enter_context(running_seaweedfs(folder / "seaweedfs", patience_seconds=0.2))
        s3.make_bucket("models")
        store = "s3://models/store"
        settings = MlflowSettings(database, "s3://models/mlflow", s3.environment, stores=(store,))
        mlflow = stack.enter_context(running_mlflow(folder / "mlflow", settings))
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in s3.environment.items():
            patch.setenv(name, value)
        team = Team(folder, mlflow.uri, store, dict(s3.environment))
        write_repository(team.repository, write_tiny(folder / "checkpoint"))
        write_program(folder / "bin" / "phipack")
        yield team


def write_repository(folder: Path, checkpoint: Path) -> None:
    """Write a team's repository: a project, and the script that brings the checkpoint to a machine."""
    (folder / "ci").mkdir(parents=True)
    (folder / "phipack.toml").write_text(PROJECT, "utf-8")
    (folder / "ci" / "checkpoint.sh").write_text(f"cp -r '{checkpoint}' checkpoint\n", "utf-8")
    (folder / ".gitignore").write_text("checkpoint/\n.phipack/\n", "utf-8")
    who = ("-c", "user.name=tests", "-c", "user.email=tests@example.org")
    for arguments in (("init", "--quiet"), ("add", "."), (*who, "commit", "--quiet", "-m", "A project")):
        subprocess.run(["git", *arguments], cwd=folder, check=True)


def write_program(path: Path) -> None:
    """Write `phipack` as the action installs it; on a machine that is to be lost, it dies while it builds."""
    path.parent.mkdir()
    path.write_text(
        f"""#!/bin/bash
export PYTHONPATH='{ROOT}'
if [ -z "${{LOSE_THIS_MACHINE:-}}" ]; then exec '{sys.executable}' -m phipack "$@"; fi
'{sys.executable}' -m phipack "$@" &
while kill -0 $! && ! ls .phipack/work/bundles/*/ >/dev/null 2>&1; do sleep 0.01; done
kill -KILL $!
wait $!
""",
        "utf-8",
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_a_release_by_two_machines_of_which_one_is_lost(team: Team) -> None:
    """Step by step: each starts from what the ones before it left."""
    done_by_one = a_lost_machine_stops_the_release_and_loses_nothing_of_the_other(team)
    the_next_run_does_what_is_missing_and_promotes(team, done_by_one)
    a_run_after_that_has_no_jobs(team)
    one_process_makes_the_same_release(team)


def a_lost_machine_stops_the_release_and_loses_nothing_of_the_other(team: Team) -> set[str]:
    team.loses_a_machine = True
    runs = team.run()

    lost, kept = runs["cells"]
    assert (lost.result, kept.result) == ("failure", "success")
    assert {lost.runs_on, kept.runs_on} == {"ubuntu-24.04"}
    (finish,) = runs["finish"]
    assert finish.result == "failure"
    assert all(cell in finish.summary for cell in lost.matrix["cells"])
    assert "::error" in finish.log
    assert [run.result for run in runs["promote"]] == ["skipped"]
    assert rows_of(team) == []
    return set(kept.matrix["cells"])


def the_next_run_does_what_is_missing_and_promotes(team: Team, done_by_one: set[str]) -> None:
    runs = team.run()

    asked = {cell for run in runs["cells"] for cell in run.matrix["cells"]}
    assert asked.isdisjoint(done_by_one)
    assert {run.result for jobs in runs.values() for run in jobs} == {"success"}
    assert "passed: 2 cells" in runs["finish"][0].summary
    assert runs["promote"][0].environment == "production"
    assert {row.cell for row in rows_of(team)} == {"galaxy-s24", "iphone-15"}
    assert {row.cell for row in rows_of(team) if "production" in row.channels} == {row.cell for row in rows_of(team)}


def a_run_after_that_has_no_jobs(team: Team) -> None:
    runs = team.run()

    assert [run.result for run in runs["cells"]] == ["skipped"]
    assert runs["finish"][0].result == "success"
    assert "nothing to move" in runs["promote"][0].log


def one_process_makes_the_same_release(team: Team) -> None:
    folder = team.folder / "alone"
    subprocess.run(["git", "clone", "--quiet", team.repository, folder], check=True)
    shutil.copytree(team.folder / "checkpoint", folder / "checkpoint")
    done = subprocess.run(
        [team.folder / "bin" / "phipack", "release"],
        cwd=folder,
        env=command_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    alone = open_ledger(f"sqlite:///{folder}/.phipack/mlflow.db", open_store(str(folder / ".phipack" / "store")))

    assert [what_is_the_same(row) for row in versions(alone)] == [what_is_the_same(row) for row in rows_of(team)]


def what_is_the_same(row: CellVersion) -> tuple[object, ...]:
    """Return what a row says of the release; not which run, store and host's speed it comes from."""
    return (
        row.reference,
        row.digest,
        row.checkpoint,
        row.recipe,
        row.target,
        row.gates_passed,
        sorted(row.inputs.items()),
    )


def rows_of(team: Team) -> list[CellVersion]:
    return versions(team.ledger())


def versions(ledger: Ledger) -> list[CellVersion]:
    return sorted(ledger.versions("tiny"), key=lambda row: row.cell)
