"""The command line as a user has it: a process of its own, in a folder of its own."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from phipack.__main__ import main
from tests.support.checkpoints import write_tiny
from tests.support.command_line import POCKET, PROJECT, Run, run_in


@pytest.fixture
def phipack(tmp_path: Path) -> Run:
    """Run phipack in an empty folder."""
    return run_in(tmp_path)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a project file of two cells and a tiny checkpoint, for the tests of one module in their order."""
    folder = tmp_path_factory.mktemp("project")
    write_tiny(folder / "checkpoint")
    (folder / "phipack.toml").write_text(PROJECT, "utf-8")
    (folder / "pocket.toml").write_text(POCKET, "utf-8")
    return folder


@dataclass(frozen=True)
class Done:
    """What a command in this process has printed."""

    stdout: str
    stderr: str

    @property
    def document(self) -> dict[str, Any]:
        """Return the JSON document of a command with `--json`."""
        return json.loads(self.stdout)


InProcess = Callable[..., Done]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> InProcess:
    """Run a command in this process, in an empty folder, and hold it to an exit code."""
    for name in list(os.environ):
        if name.startswith(("MLFLOW_", "PHIPACK_")) or name in ("COLUMNS", "NO_COLOR"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, expect: int = 0) -> Done:
        capfd.readouterr()
        code = main(list(arguments))
        done = Done(*capfd.readouterr())
        assert code == expect, done
        assert "Traceback" not in done.stderr
        return done

    return run
