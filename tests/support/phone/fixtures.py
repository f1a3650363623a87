"""Fixtures: a phone of the tests' own, and the real adb with a server of its own. A conftest imports them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.phone.device import Phone
from tests.support.phone.server import adb, adb_environment, connected


@pytest.fixture(scope="session")
def adb_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The variables of an adb server of the tests' own, which runs for the session."""
    if shutil.which("adb") is None:
        pytest.fail("tests of phones need adb: apt-get install adb (CONTRIBUTING.md)")
    environment = adb_environment(tmp_path_factory.mktemp("adb"))
    subprocess.run(["adb", "start-server"], env=environment, capture_output=True, check=True, timeout=60)
    yield environment
    adb(environment, "kill-server")


@pytest.fixture
def phone(adb_server: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Phone]:
    """A phone that this process's adb is connected to."""
    for name, value in adb_server.items():
        monkeypatch.setenv(name, value)
    with connected(adb_server, tmp_path / "phone") as found:
        yield found
