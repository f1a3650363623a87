"""What `--profile` shows: every second counted once, for the step that was under way."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from builders.build import build
from builders.checkpoint import Checkpoint
from phipack.profile import Profile, Use, profile_text, tree_memory
from targets.progress import Step
from targets.recipes import recipe_named
from tests.support.command_line import InProcess


class Clock:
    """A clock that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_every_second_belongs_to_the_step_under_way() -> None:
    clock, memory = Clock(), [100]
    profile = Profile(clock, lambda: memory[0])
    for now, used, step in (
        (1.0, 200, Step("compare", 0, 8, subject="a")),
        (3.0, 500, Step("reference", 0, 2, subject="a")),
        (7.0, 300, Step("compare", 1, 8, subject="a")),
        (8.0, 400, Step("compare", 8, 8, subject="a")),
        (8.5, 400, Step("compare", 0, 8, subject="b")),
    ):
        clock.now, memory[0] = now, used
        profile.add(step)
    clock.now = 10.5
    assert profile.end() == (
        Use("a", "compare", 3.0, 500),  # memory is looked at when a step ends, too
        Use("a", "reference", 4.0, 300),
        Use("b", "compare", 2.0, 400),
        Use("", "other", 1.5, 400),
    )


def test_memory_that_is_not_known_is_left_out() -> None:
    uses = Profile(Clock(), lambda: None).end()
    assert uses == (Use("", "other", 0.0, None),)
    assert "peak memory" in profile_text(uses)


def test_peaks_between_events_are_seen() -> None:
    memory = [1]
    profile = Profile(memory=lambda: memory[0])
    profile.add(Step("walk", 0, 1))
    memory[0] = 9
    time.sleep(0.5)
    memory[0] = 1
    profile.add(Step("walk", 1, 1))
    assert profile.end()[0].peak_memory_bytes == 9


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="only Linux says what memory processes take")
def test_memory_is_that_of_started_processes_too() -> None:
    before = tree_memory()
    code = "x = bytearray(64 << 20); print(1, flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        during = tree_memory()
        process.communicate(b"\n")
    assert before is not None
    assert during is not None
    assert during - before > 60 << 20


def test_validate_shows_where_time_went(command: InProcess, tiny: Checkpoint, tmp_path: Path) -> None:
    bundle = build(tiny, recipe_named("gguf-f16"), tmp_path / "bundle")
    arguments = ("validate", str(bundle.path), "--against", str(tiny.path), "--tokens", "64")
    plain = command(*arguments, "--json", "--profile").document
    phases = {row["phase"]: row for row in plain["profile"]}
    assert {"oracle", "reference", "open", "compare", "generate", "speed", "other"} <= set(phases)
    assert {row["subject"] for row in plain["profile"]} == {"gguf-f16", ""}
    assert phases["speed"]["seconds"] > 0
    assert "profile" not in plain["result"]
