"""The command line as a user has it: a process of its own, in a folder of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Run = Callable[..., subprocess.CompletedProcess[str]]


def document_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Return the one JSON document that a command with `--json` has printed."""
    document = json.loads(done.stdout)
    assert document["schema"] == "phipack.cli/1"
    assert document["ok"] == ("error" not in document)
    return document


def result_of(done: subprocess.CompletedProcess[str]) -> Any:
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


def command_environment() -> dict[str, str]:
    """The environment without what a developer's own settings would change."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PHIPACK_"))}


def in_the_foreground() -> None:
    """Let a program that starts take Ctrl-C: a runner in the background has its children ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def run_in(folder: Path, environment: Mapping[str, str] | None = None) -> Run:
    """Give a function that runs `phipack ARGUMENTS` in a folder and holds it to an exit code."""

    def run(*arguments: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "phipack", *arguments],
            cwd=folder,
            env=command_environment() | dict(environment or {}),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == expect, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    return run
