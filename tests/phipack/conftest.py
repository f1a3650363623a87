"""The command line as a user has it: a process of its own, in a folder of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

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
