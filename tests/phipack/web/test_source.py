"""What pages are made from is asked for seldom, whether it answers or not, and evidence once."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

import phipack
from phipack.web.source import Source
from targets.errors import RegistryUnreachableError


@pytest.fixture
def asked(shown: phipack.Registry, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts the calls of the registry's reading methods."""
    made: Counter[str] = Counter()

    def counted(name: str) -> Callable[..., Any]:
        ask = getattr(phipack.Registry, name)

        def call(self: phipack.Registry, *args: Any) -> Any:
            made[name] += 1
            return ask(self, *args)

        return call

    for name in ("versions", "history", "evidence_of", "planned_cells"):
        monkeypatch.setattr(phipack.Registry, name, counted(name))
    return made


def test_many_at_once_ask_once(shown: phipack.Registry, asked: Counter[str]) -> None:
    source = Source(shown, shown.store, kept_seconds=3600)
    threads = [threading.Thread(target=source.versions) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert source.versions().value == shown.versions()
    assert asked["versions"] == 2  # one is this test's own


def test_what_is_too_old_is_read_again(shown: phipack.Registry, asked: Counter[str]) -> None:
    source = Source(shown, shown.store, kept_seconds=0)
    assert source.versions().age_seconds >= 0
    source.versions()
    assert asked["versions"] == 2


def test_evidence_is_read_once_for_lists_in_one_go(shown: phipack.Registry, asked: Counter[str]) -> None:
    source = Source(shown, shown.store, kept_seconds=0)
    rows = shown.versions()
    for _ in range(2):
        found = source.summaries(rows).value
        assert found is not None
        assert found.keys() == {row.reference for row in rows}
    assert asked["evidence_of"] == 1


def test_a_tag_that_was_changed_since_is_seen(shown: phipack.Registry) -> None:
    """The evidence stays the same then, and its summary was kept."""
    source = Source(shown, shown.store, kept_seconds=0)
    row = next(one for one in shown.versions() if one.gates_passed)
    for version, state in ((row, "pass"), (replace(row, gates_passed=False), "fail"), (row, "pass")):
        found = source.summaries([version]).value
        assert found is not None
        assert found[row.reference].verdict.state == state


def test_no_answer_is_kept_too(shown: phipack.Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    source, tries = Source(shown, shown.store, kept_seconds=3600), []

    def fail(_: phipack.Registry, *__: Any) -> None:
        tries.append(1)
        raise RegistryUnreachableError("MLflow does not answer", fix="start it")

    for name in ("versions", "history", "evidence_of"):
        monkeypatch.setattr(phipack.Registry, name, fail)
    for _ in range(3):
        assert isinstance(source.versions().problem, RegistryUnreachableError)
        assert isinstance(source.history("phi").problem, RegistryUnreachableError)
    assert len(tries) == 2
    assert source.published().value is not None


def test_documents_that_are_known_are_not_read_again(shown: phipack.Registry) -> None:
    source = Source(shown, shown.store, kept_seconds=0)
    first = source.published().value
    assert first is not None
    assert source.published().value is first


def test_the_catalog_waits_for_no_registry(shown: phipack.Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    source, asked, end = Source(shown, shown.store), threading.Event(), threading.Event()

    def hang(_: phipack.Registry, *__: Any) -> tuple[()]:
        asked.set()
        assert end.wait(60)
        return ()

    monkeypatch.setattr(phipack.Registry, "versions", hang)
    thread = threading.Thread(target=source.versions)
    thread.start()
    try:
        assert asked.wait(60)
        assert source.published().value is not None
    finally:
        end.set()
        thread.join()
