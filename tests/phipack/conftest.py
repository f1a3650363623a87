"""The command line as a user has it, in a folder of its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from phipack.__main__ import main
from tests.support.command_line import Done, InProcess, Run, run_in, write_project
from tests.support.phone.fixtures import adb_server, phone

__all__ = ["adb_server", "phone"]  # fixtures


@pytest.fixture
def phipack(tmp_path: Path) -> Run:
    """Run phipack in an empty folder."""
    return run_in(tmp_path)


@pytest.fixture
def project(tmp_path: Path, tiny_folder: Path, migrated_database: Path) -> Path:
    """A folder with a project file of two cells, a tiny checkpoint and an empty registry."""
    return write_project(tmp_path / "project", tiny_folder, migrated_database)


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
