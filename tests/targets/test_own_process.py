"""Imports that a process of phipack's own does without, and that any other process gets as usual."""

from __future__ import annotations

import importlib
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from targets import own_process
from targets.own_process import importing_without, is_own_process


@pytest.fixture(autouse=True)
def _modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two modules to import; the process begins as somebody else's."""
    for name in ("needed_by_nobody", "needed_by_another"):
        (tmp_path / f"{name}.py").write_text("there = True\n", "utf-8")
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(own_process, "_own", threading.Event())


def test_elsewhere_everything_is_imported() -> None:
    with importing_without("needed_by_nobody"):
        assert importlib.import_module("needed_by_nobody").there


def test_a_process_of_phipacks_own_does_without() -> None:
    is_own_process()
    with importing_without("needed_by_nobody"):
        with pytest.raises(ModuleNotFoundError, match="does without needed_by_nobody") as refused:
            importlib.import_module("needed_by_nobody")
        assert refused.value.name == "needed_by_nobody"
        assert importlib.import_module("needed_by_another").there
    assert importlib.import_module("needed_by_nobody").there


def test_what_is_imported_already_stays() -> None:
    is_own_process()
    importlib.import_module("needed_by_nobody")
    with importing_without("needed_by_nobody"):
        assert importlib.import_module("needed_by_nobody").there


def test_another_thread_gets_what_it_imports() -> None:
    is_own_process()
    with importing_without("needed_by_nobody"), ThreadPoolExecutor(1) as pool:
        assert pool.submit(importlib.import_module, "needed_by_nobody").result(20).there
