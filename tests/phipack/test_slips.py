"""A new user's slips: each is answered with what was meant, or what to write."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from targets.progress import Event, Notice, Step, notices_once
from tests.support.command_line import InProcess

PROJECT = """\
model = "tiny"
version = "1.0.0"
checkpoint = "my-phi"

[[cells]]
target = "iphone-15"
recipe = "gguf-q8_0"

[[cells]]
target = "pixel-9"
recipe = "gguf-q8_0"
"""


@pytest.fixture
def here(tmp_path: Path, tiny_folder: Path) -> Path:
    """A folder with a checkpoint and a project file."""
    shutil.copytree(tiny_folder, tmp_path / "my-phi")
    (tmp_path / "phipack.toml").write_text(PROJECT, "utf-8")
    return tmp_path


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("words", [("release", "--dry-run"), ("plan",)])
def test_a_cell_without_a_gate_on_accuracy_is_shown_the_lines_to_add(
    command: InProcess, words: tuple[str, ...]
) -> None:
    done = command(*words, expect=3)
    assert "iphone-15: it has no gate on accuracy\npixel-9: it has no gate on accuracy" in done.stdout
    assert "\n    [gates]\n    kl_mean = { at_most = 0.2 }" in done.stderr


def test_the_lines_that_are_shown_are_enough(here: Path, command: InProcess) -> None:
    shown = command("release", "--dry-run", expect=3).stderr.partition("example:\n")[2]
    (here / "phipack.toml").write_text(PROJECT + shown, "utf-8")
    assert "to build: 1 bundle" in command("release", "--dry-run").stdout


def test_cells_that_fail_differently_each_have_their_fix(here: Path, command: InProcess) -> None:
    gates = "gates = { artifact_bytes = { at_most = 10 }, kl_mean = { at_most = 1 } }\n"
    (here / "phipack.toml").write_text(PROJECT + gates, "utf-8")
    done = command("release", "--dry-run", expect=3)
    assert done.stdout.count("  fix: ") == 2
    assert "choose another recipe" in done.stdout
    assert "[gates]" in done.stdout


def test_a_path_that_is_wrong_is_reported_at_its_line(here: Path, command: InProcess) -> None:
    (here / "phipack.toml").write_text(PROJECT.replace("my-phi", "my-pih"), "utf-8")
    for words in (("release",), ("release", "--dry-run"), ("plan",), ("release", "--defer-registration")):
        done = command(*words, expect=1)
        assert "phipack.toml:3: checkpoint: my-pih: there is no such folder" in done.stderr
        assert "did you mean 'my-phi'?" in done.stderr


@pytest.mark.usefixtures("here")
def test_a_folder_that_is_misspelt_is_recognised(command: InProcess) -> None:
    assert "did you mean 'my-phi'?" in command("inspect", "./my-pih", expect=1).stderr
    assert "did you mean the folder 'my-phi'?" in command("fit", "my-pih", "--target", "pixel-9", expect=1).stderr
    known = command("fit", "phi-5", "--target", "pixel-9", expect=1).stderr
    assert "phi-4" in known


def test_the_context_that_is_built_is_said_where_the_longest_is_shown(command: InProcess) -> None:
    shown = command("fit", "phi-3-mini-4k-instruct", "--target", "iphone-15").stdout
    assert "a bundle is built for at most 4,096 tokens unless context_length (--context) asks for more" in shown


def test_what_several_works_say_is_passed_once() -> None:
    seen: list[Event] = []
    receive = notices_once(seen.append)
    step = Step("write", 0, 1)
    for event in (Notice("a"), step, Notice("a"), step, Notice("b")):
        receive(event)
    assert seen == [Notice("a"), step, step, Notice("b")]
