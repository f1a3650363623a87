"""Fixtures that every room uses."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from builders.checkpoint import Checkpoint, open_checkpoint
from devtools.packages import default_cache
from registry.ledger.ledger import open_ledger
from registry.store.folder import FolderStore
from tests.support.cases import EVERY_CASE, examples
from tests.support.checkpoints import write_tiny
from tests.support.garbage import leave_imports_out
from tests.support.mlflow_schema import make_schema_once
from tests.support.tiers import tiers_of
from tests.support.warm_processes import ANY_SPREAD

# optimum's environment is made once for all sessions, where the other downloads are.
os.environ.setdefault("PHIPACK_CACHE", str(default_cache()))

# The same examples in every run, all of them with CASES=all, and no bound on time: a machine may be busy.
settings.register_profile(
    "phipack",
    max_examples=examples(100),
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("phipack")

make_schema_once()


@pytest.fixture(scope="session", autouse=True)
def _whatever_the_load() -> Iterator[None]:
    """Take any runs for a speed: other work on the machine that tests run on must not decide."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builders.validation.speed.MOST_SPREAD", ANY_SPREAD)
        yield


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint's folder, shared by the session: don't change it."""
    return write_tiny(tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> Checkpoint:
    """The same, opened."""
    return open_checkpoint(tiny_folder)


@pytest.fixture(scope="session")
def migrated_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's empty SQLite, migrated once: that takes 2 s."""
    home = tmp_path_factory.mktemp("mlflow")
    ledger = open_ledger(f"sqlite:///{home}/mlflow.db", FolderStore(home / "store"))
    ledger.mlflow.connect()
    return home / "mlflow.db"


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Iterator[None]:
    """Mark each test with its tiers, put those with servers first, and keep each folder's tests together.

    Workers begin with contiguous shares. So one of them alone starts the servers, and each imports and makes for its
    session what its own folders need: MLflow, torch and coremltools take seconds in every process. Folders follow one
    another, and tests in a folder, as they did before.
    """
    left_out = [] if EVERY_CASE else [item for item in items if item.get_closest_marker("every_case")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("every_case")]
    for item in items:
        if isinstance(item, pytest.Function):
            for tier in tiers_of(item):
                item.add_marker(tier)
    yield
    firsts: dict[str, int] = {}
    for place, item in enumerate(items):
        for folder in _room_and_folder(item):
            firsts.setdefault(folder, place)
    items.sort(
        key=lambda item: (
            item.get_closest_marker("service") is None,
            *(firsts[folder] for folder in _room_and_folder(item)),
        )
    )


def _room_and_folder(item: pytest.Item) -> tuple[str, str]:
    """Return `tests/registry` and `tests/registry/store/` of an item there: a room's own folder is none of the room."""
    folders = item.nodeid.partition("::")[0].split("/")[:-1]
    return "/".join(folders[:2]), "/".join(folders) + "/"


def pytest_collection_finish() -> None:
    """Leave what is imported and collected out of garbage collection."""
    leave_imports_out()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    """The same with what a test has imported."""
    leave_imports_out()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how to repeat the order, which the header would have told."""
    seed = getattr(terminalreporter.config.option, "randomly_seed", None)
    if isinstance(seed, int) and terminalreporter.getreports("failed"):
        terminalreporter.write_line(f"the order was that of --randomly-seed={seed}")
