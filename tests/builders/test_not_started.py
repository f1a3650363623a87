"""A process that the system refuses to start is reported as that, with the system's reason: not as what it was for."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from builders.devices.adb import client, program
from builders.devices.tool_run import run_tool
from builders.optimum_export import run
from builders.report.same_prompts import Prompting, compare_prompts
from builders.runtime.isolation import open_isolated
from builders.templates import process, render_chat
from builders.validation.speed import measure_speed
from devtools.bundles import make_bundle
from registry.bundle.folder import Bundle
from targets.errors import PhipackError

TEMPLATE = "{{ messages[0].content }}"


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system has no process to spare."""

    def refuse(*_: object, **__: object) -> None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    for renderer in process._RENDERERS.values():
        renderer.close()
    monkeypatch.setattr(subprocess, "Popen", refuse)
    monkeypatch.setattr(client, "adb_program", lambda: "adb")


def _export(bundle: Bundle) -> None:
    run._run(Path("python"), bundle.path, bundle.path.parent / "linked", bundle.path.parent / "out")


@pytest.mark.usefixtures("full")
@pytest.mark.parametrize(
    "start",
    [
        lambda _: render_chat(TEMPLATE, [{"role": "user", "content": "x"}], {}),
        lambda _: render_chat(TEMPLATE, [{"role": "user", "content": "x"}], {}, engine="transformers"),
        open_isolated,
        measure_speed,
        lambda _: run_tool(["llama-bench"], 1),
        lambda _: client.call("devices"),
        lambda _: program._started(["adb", "shell"]),
        _export,
    ],
)
def test_the_systems_reason_is_the_problem(start: Callable[[Bundle], object], tmp_path: Path) -> None:
    with pytest.raises(PhipackError, match="can't be started: Resource temporarily unavailable") as caught:
        start(make_bundle(tmp_path / "bundle"))
    assert "ulimit -u" in caught.value.fix


@pytest.mark.usefixtures("full")
def test_nothing_is_said_of_prompts_that_were_not_rendered() -> None:
    found = compare_prompts(Prompting(TEMPLATE, {}), Prompting(f" {TEMPLATE}", {}))
    assert found.problem.startswith("the process that renders chat templates can't be started: ")
    assert (found.rendered, found.different) == (0, ())


def test_templates_that_are_stopped_write_not_the_same() -> None:
    endless = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(process, "SECONDS_LIMIT", 0.2)
        found = compare_prompts(Prompting(endless, {}), Prompting(f" {endless}", {}))
    assert found.problem.startswith("it was not rendered within")
