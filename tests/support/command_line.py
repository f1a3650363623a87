"""The command line as a user has it, in a folder of its own: in this process, or as a process."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any
from unittest import mock

Run = Callable[..., CompletedProcess[str]]


@dataclass(frozen=True)
class Done:
    """What a command in this process has printed."""

    stdout: str
    stderr: str

    @property
    def document(self) -> dict[str, Any]:
        """Return the JSON document of a command with `--json`."""
        return json.loads(self.stdout)


InProcess = Callable[..., Done]


def document_of(done: CompletedProcess[str]) -> dict[str, Any]:
    """Return the one JSON document that a command with `--json` has printed."""
    document = json.loads(done.stdout)
    assert document["schema"] == "phipack.cli/1"
    assert document["ok"] == ("error" not in document)
    return document


def result_of(done: CompletedProcess[str]) -> Any:
    """Return the result that a command with `--json` has printed."""
    return document_of(done)["result"]


PROJECT = """\
model = "tiny"
version = "1.0.0"
checkpoint = "checkpoint"

[evaluation]
tokens = 256
window = 128
greedy_prompts = 2
greedy_new_tokens = 4

[gates]
kl_mean = { at_most = 0.5 }

[[cells]]
target = "iphone-15"
recipe = "onnx-int4"

[[cells]]
target = "galaxy-s24"
recipe = "gguf-q8_0"
"""


TOO_SMALL = """
[[cells]]
name = "pocket"
target = "pocket.toml"
recipe = "gguf-f16"
"""


POCKET = """\
name = "pocket"
title = "a pocket device"
soc = "none"
os = "Android"
minimum_os = "14"
ram = { value = 20_000_000, source = "made up", confirmed = false }
app_memory = { value = 10_000_000, source = "made up", confirmed = false }
memory_bandwidth = { value = 1_000_000_000, source = "made up", confirmed = false }

[decode_efficiency]
gguf = { value = 0.5, source = "made up", confirmed = false }
"""


def write_project(folder: Path, checkpoint: Path, migrated_database: Path) -> Path:
    """Write a project of two cells with its checkpoint and an empty registry; return its folder.

    The registry is copied, since MLflow takes 2 s to make one.
    """
    shutil.copytree(checkpoint, folder / "checkpoint")
    (folder / ".phipack").mkdir()
    shutil.copyfile(migrated_database, folder / ".phipack" / "mlflow.db")
    (folder / "phipack.toml").write_text(PROJECT, "utf-8")
    (folder / "pocket.toml").write_text(POCKET, "utf-8")
    return folder


def command_environment() -> dict[str, str]:
    """The environment without what a developer's own settings would change."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PHIPACK_"))}


def in_the_foreground() -> None:
    """Let a program that starts take Ctrl-C: a runner in the background has its children ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def run_in(folder: Path, environment: Mapping[str, str] | None = None) -> Run:
    """Return a function that runs `phipack ARGUMENTS` in a folder, in this process, and holds it to an exit code.

    What `phipack` as a program is made of is called as it is: arguments in, exit code and text out. Only the start of
    Python and its imports are saved, which are seconds where MLflow or a runtime is needed.
    """
    from phipack.__main__ import main

    def run(*arguments: str, expect: int = 0) -> CompletedProcess[str]:
        return called(lambda: main(list(arguments)), folder, environment, expect=expect)

    return run


def called(
    program: Callable[[], int], folder: Path, environment: Mapping[str, str] | None = None, *, expect: int = 0
) -> CompletedProcess[str]:
    """Call a program in a folder, with no input, and hold it to an exit code; return what it has printed."""
    out, errors = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.TextIOWrapper(io.BytesIO(), "utf-8")
    with (
        contextlib.chdir(folder),
        mock.patch.dict(os.environ, command_environment() | dict(environment or {}), clear=True),
        mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(), "utf-8")),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(errors),
    ):
        code = program()
    return _held(CompletedProcess((), code, _text(out), _text(errors)), expect)


def run_as_process_in(folder: Path, environment: Mapping[str, str] | None = None) -> Run:
    """Return a function that does the same in a process of its own, for what only a process shows."""

    def run(*arguments: str, expect: int = 0) -> CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "phipack", *arguments],
            cwd=folder,
            env=command_environment() | dict(environment or {}),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        return _held(done, expect)

    return run


def _held(done: CompletedProcess[str], expect: int) -> CompletedProcess[str]:
    assert done.returncode == expect, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "a defect of phipack" not in done.stderr, done.stderr
    return done


def _text(stream: io.TextIOWrapper) -> str:
    stream.flush()
    assert isinstance(stream.buffer, io.BytesIO)
    return stream.buffer.getvalue().decode()
