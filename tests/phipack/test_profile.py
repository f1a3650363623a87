"""What `--profile` shows: every second counted once, for the step that was under way."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from builders.build import build
from builders.checkpoint import Checkpoint
from phipack.profile import Profile, Resources, Use, profile_text, tree_resources
from targets.progress import Step
from targets.recipes import recipe_named
from tests.support.command_line import InProcess


class Clock:
    """A clock that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def recorded(*events: tuple[float, int, float, Step], end: tuple[float, int, float]) -> tuple[Use, ...]:
    """Return what steps took, by events: the clock, memory, processor seconds and the step."""
    clock, used = Clock(), [Resources(100, 50.0)]
    profile = Profile(clock, lambda: used[0])
    for now, memory, seconds, step in events:
        clock.now, used[0] = now, Resources(memory, seconds)
        profile.add(step)
    clock.now, used[0] = end[0], Resources(*end[1:])
    return profile.end()


def test_every_second_belongs_to_the_step_under_way() -> None:
    uses = recorded(
        (1.0, 200, 51.5, Step("compare", 0, 8, subject="a")),
        (3.0, 500, 55.5, Step("reference", 0, 2, subject="a")),
        (7.0, 300, 56.5, Step("compare", 1, 8, subject="a")),
        (8.0, 400, 57.0, Step("compare", 8, 8, subject="a")),
        (8.5, 400, 57.25, Step("compare", 0, 8, subject="b")),
        end=(10.5, 400, 58.25),
    )
    assert uses == (
        Use("a", "compare", 3.0, 4.5, 500),  # memory is looked at when a step ends, too
        Use("a", "reference", 4.0, 1.0, 300),
        Use("b", "compare", 2.0, 1.0, 400),
        Use("", "other", 1.5, 1.75, 400),
    )


def test_a_step_goes_on_when_one_within_it_is_over() -> None:
    uses = recorded(
        (1.0, 1, 1.0, Step("behaviour", 0, 2)),
        (2.0, 1, 1.0, Step("reference", 0, 4)),
        (5.0, 1, 1.0, Step("reference", 4, 4)),
        (9.0, 1, 1.0, Step("behaviour", 2, 2)),
        (9.5, 1, 1.0, Step("speed", 1, 1)),  # over when it is first reported
        end=(10.0, 1, 1.0),
    )
    assert [(use.phase, use.seconds) for use in uses] == [("behaviour", 5.0), ("reference", 3.0), ("other", 2.0)]


def test_memory_that_is_not_known_is_left_out() -> None:
    uses = Profile(Clock(), lambda: None).end()
    assert uses == (Use("", "other", 0.0, None, None),)
    assert "peak memory" in profile_text(uses)


def test_peaks_between_events_are_seen() -> None:
    memory = [1]
    profile = Profile(used=lambda: Resources(memory[0], 0.0))
    profile.add(Step("walk", 0, 1))
    memory[0] = 9
    time.sleep(0.5)
    memory[0] = 1
    profile.add(Step("walk", 1, 1))
    assert profile.end()[0].peak_memory_bytes == 9


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="only Linux says what memory processes take")
def test_memory_and_seconds_are_those_of_started_processes_too() -> None:
    before = tree_resources()
    code = "x = bytearray(64 << 20); sum(range(10_000_000)); print(1, flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        during = tree_resources()
        process.communicate(b"\n")
    after = tree_resources()
    assert before is not None
    assert during is not None
    assert after is not None
    assert during.memory_bytes - before.memory_bytes > 60 << 20
    assert during.processor_seconds - before.processor_seconds > 0.05
    assert after.processor_seconds >= during.processor_seconds  # of one that has ended, too


def test_validate_shows_where_time_went(command: InProcess, tiny: Checkpoint, tmp_path: Path) -> None:
    bundle = build(tiny, recipe_named("gguf-f16"), tmp_path / "bundle")
    arguments = ("validate", str(bundle.path), "--against", str(tiny.path), "--tokens", "64")
    plain = command(*arguments, "--json", "--profile").document
    phases = {row["phase"]: row for row in plain["profile"]}
    assert {"oracle", "reference", "open", "compare", "generate", "speed", "other"} <= set(phases)
    assert {row["subject"] for row in plain["profile"]} == {"gguf-f16", ""}
    assert phases["speed"]["seconds"] > 0
    assert phases["speed"]["processor_seconds"] > 0
    assert "profile" not in plain["result"]
