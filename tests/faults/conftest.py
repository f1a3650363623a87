"""The process that walks, one for the session."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.effects import compiled

Walk = Callable[[str, str], dict[str, Any]]
EVERY = os.environ.get("FAULTS") == "all"
_walked: list[str] = []
_OURS = ("MLFLOW_", "PHIPACK_")


@pytest.fixture(scope="session")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walk]:
    """Walk a command under a fault: at its sample of points, or at every one with FAULTS=all in the environment."""
    place = tmp_path_factory.mktemp("walk")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    environment |= {
        "LD_PRELOAD": str(compiled(place)),
        "OPENBLAS_NUM_THREADS": "1",
        "no_proxy": "*",
        "HOME": str(place),
    }
    walker = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.walk", str(place)],
        cwd=Path(__file__).parents[2],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with walker:

        def asked(command: str, fault: str) -> dict[str, Any]:
            assert walker.stdin is not None
            assert walker.stdout is not None
            print(json.dumps({"command": command, "fault": fault, "every": EVERY}), file=walker.stdin, flush=True)
            answer: dict[str, Any] = json.loads(walker.stdout.readline())
            _walked.append(f"{command}, {fault}: {answer['walked']} of {answer['points']} points")
            return answer

        yield asked
        assert walker.stdin is not None
        walker.stdin.close()
        assert walker.wait(20) == 0


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how much was walked."""
    for line in _walked:
        terminalreporter.write_line(line)
