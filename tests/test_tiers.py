"""Tests are put into tiers by what they start."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from devtools.services.postgresql import running_postgresql
from tests.support.command_line import run_as_process_in, run_in
from tests.support.tiers import BY_PATH, PROCESSES, SERVICES, names_in

ROOT = Path(__file__).parents[1]


def _directly() -> None:
    subprocess.run(["true"], check=True)


def _through_a_helper(folder: Path) -> None:
    run_as_process_in(folder)("--help")


def _within_a_function() -> Callable[[Path], None]:
    def inner(folder: Path) -> None:
        _through_a_helper(folder)

    return inner


def _in_this_process(folder: Path) -> None:
    run_in(folder)("--help")


def _with_a_server(folder: Path) -> None:
    with running_postgresql(folder):
        pass


@pytest.mark.parametrize("function", [_directly, _through_a_helper, _within_a_function])
def test_what_starts_a_process_is_seen(function: Callable[..., object]) -> None:
    assert set(names_in(function)) & PROCESSES


def test_what_starts_none_is_fast() -> None:
    assert not set(names_in(_in_this_process)) & (PROCESSES | SERVICES)


def test_a_server_is_seen() -> None:
    assert set(names_in(_with_a_server)) & SERVICES


def test_every_path_of_the_table_is_there() -> None:
    assert [path for path in BY_PATH if not (ROOT / path).is_file()] == []
