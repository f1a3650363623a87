"""The process that walks, one for the session, and how much was walked."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.walker import Walk, walking


@pytest.fixture(scope="session")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walk]:
    """Walk a command under a fault: at its sample of points, or at those that FAULTS in the environment says."""
    with walking(tmp_path_factory.mktemp("walk")) as walk:
        yield walk


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how much was walked, by this process or by the workers."""
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            for name, value in report.user_properties:
                if name == "walked":
                    terminalreporter.write_line(value)
