"""What `--profile` shows: every second counted once, for what was under way, and the rest as not attributed."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.build import build
from builders.build_cache import BuildCache
from builders.checkpoint import Checkpoint
from phipack.profile import PhaseUse, Profile, Profiler, Resources, Spent, tree_resources
from phipack.profile_text import profile_text
from registry.files.lock import file_lock
from targets.progress import Phase, Step
from targets.recipes import recipe_named
from tests.support.checkpoints import write_tiny
from tests.support.command_line import InProcess, document_of, run_in


class Clock:
    """A clock that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Machine:
    """What a test says that processes use, and when what is reported."""

    def __init__(self) -> None:
        self.clock, self.used = Clock(), Resources(100, 50.0)
        self.profiler = Profiler(self.clock, lambda: self.used)

    def at(self, now: float, memory: int, seconds: float, *events: Step | Phase) -> None:
        self.clock.now, self.used = now, Resources(memory, seconds)
        for event in events:
            self.profiler.add(event)

    @contextmanager
    def in_thread(self, name: str, subject: str = "") -> Iterator[None]:
        """Have a thread of its own in a phase."""
        begun, over = threading.Event(), threading.Event()

        def work() -> None:
            self.profiler.add(Phase(name, True, subject, 7))
            begun.set()
            over.wait()
            self.profiler.add(Phase(name, False, subject))

        thread = threading.Thread(target=work)
        thread.start()
        begun.wait()
        yield
        over.set()
        thread.join()

    def end(self) -> Profile:
        return self.profiler.end()


def rows(profile: Profile) -> list[tuple[Any, ...]]:
    return [
        (part.subject, use.phase, use.seconds, use.processor_seconds, use.peak_memory_bytes)
        for part in profile.subjects
        for use in part.phases
    ]


def test_every_second_belongs_to_the_step_under_way() -> None:
    machine = Machine()
    machine.at(1.0, 200, 51.5, Step("compare", 0, 8, subject="a"))
    machine.at(3.0, 500, 55.5, Step("reference", 0, 2, subject="a"))
    machine.at(7.0, 300, 56.5, Step("compare", 1, 8, subject="a"))
    machine.at(8.0, 400, 57.0, Step("compare", 8, 8, subject="a"))
    machine.at(8.5, 400, 57.25, Step("compare", 0, 8, subject="b"))
    machine.at(10.5, 400, 58.25)
    found = machine.end()
    assert rows(found) == [
        ("a", "compare", 3.0, 4.5, 500),  # memory is looked at when a step ends, too
        ("a", "reference", 4.0, 1.0, 300),
        ("b", "compare", 2.0, 1.0, 400),
    ]
    assert found.unattributed == Spent(1.5, 1.75, 400)
    assert (found.seconds, found.processor_seconds, found.peak_memory_bytes) == (10.5, 8.25, 500)
    assert [(part.subject, part.seconds, part.peak_memory_bytes) for part in found.subjects] == [
        ("a", 7.0, 500),
        ("b", 2.0, 400),
    ]


def test_a_step_goes_on_when_one_within_it_is_over() -> None:
    machine = Machine()
    machine.at(1.0, 1, 1.0, Step("behaviour", 0, 2))
    machine.at(2.0, 1, 1.0, Step("reference", 0, 4))
    machine.at(5.0, 1, 1.0, Step("reference", 4, 4))
    machine.at(9.0, 1, 1.0, Step("behaviour", 2, 2))
    machine.at(9.5, 1, 1.0, Step("speed", 1, 1))  # over when it is first reported
    machine.at(10.0, 1, 1.0)
    found = machine.end()
    assert [row[1:3] for row in rows(found)] == [("behaviour", 5.0), ("reference", 3.0)]
    assert found.unattributed.seconds == 2.0


def test_phases_of_threads_share_the_time_and_come_before_steps() -> None:
    machine = Machine()
    machine.at(0.0, 100, 50.0, Step("write", 0, 9, subject="a"))
    machine.at(1.0, 100, 51.0, Phase("read", True, "a", 30))
    with machine.in_thread("quantize", "b"):
        machine.at(3.0, 100, 53.0, Phase("transform", True, "a"))  # within the other one, which it interrupts
        machine.at(5.0, 100, 55.0, Phase("transform", False, "a"), Phase("read", False, "a"))
        machine.at(6.0, 100, 57.0)
    machine.at(8.0, 100, 59.0, Step("write", 9, 9, subject="a"))
    found = machine.end()
    assert {row[:2]: row[2] for row in rows(found)} == {
        ("a", "write"): 3.0,
        ("a", "read"): 1.0,
        ("a", "transform"): 1.0,
        ("b", "quantize"): 3.0,
    }
    processors = [use.processor_seconds or 0.0 for part in found.subjects for use in part.phases]
    assert sum(processors) == pytest.approx(9.0)
    worked = {use.phase: use.worked_bytes for part in found.subjects for use in part.phases}
    assert worked == {"write": None, "read": 30, "transform": None, "quantize": 7}
    assert found.unattributed.seconds == 0.0


def test_who_waits_has_no_share_while_others_work() -> None:
    machine = Machine()
    machine.at(0.0, 1, 50.0, Phase("wait", True, "a"))
    with machine.in_thread("read"):
        machine.at(2.0, 1, 50.0)
    machine.at(5.0, 1, 50.0, Phase("wait", False, "a"))
    assert {row[:2]: row[2] for row in rows(machine.end())} == {("a", "wait"): 3.0, ("", "read"): 2.0}


EVENTS = st.one_of(
    st.builds(Step, st.sampled_from("stu"), st.integers(0, 2), st.integers(0, 2), subject=st.sampled_from(["", "a"])),
    st.builds(Phase, st.sampled_from(["p", "q", "wait"]), st.booleans(), st.sampled_from(["", "b"])),
)


@given(st.lists(st.tuples(st.integers(0, 9), EVENTS), max_size=20))
def test_phases_and_the_rest_are_the_whole_whatever_is_reported(events: list[tuple[int, Step | Phase]]) -> None:
    machine, now = Machine(), 0
    for after, event in events:
        now += after
        machine.at(now, 1, 50.0 + 2 * now, event)
    found = machine.end()
    parts = [*(use for part in found.subjects for use in part.phases), found.unattributed]
    assert all(use.seconds >= 0 for use in parts)
    assert sum(use.seconds for use in parts) == pytest.approx(now)
    assert sum(use.processor_seconds or 0.0 for use in parts) == pytest.approx(2 * now)


def test_memory_that_is_not_known_is_left_out() -> None:
    profile = Profiler(Clock(), lambda: None).end()
    assert profile == Profile(0.0, None, None, (), Spent(0.0, None, None))
    assert "peak memory" in profile_text(profile)


def test_peaks_between_events_are_seen() -> None:
    memory = [1]
    profiler = Profiler(used=lambda: Resources(memory[0], 0.0))
    profiler.add(Step("walk", 0, 1))
    memory[0] = 9
    time.sleep(0.5)
    memory[0] = 1
    profiler.add(Step("walk", 1, 1))
    assert profiler.end().subjects[0].phases[0].peak_memory_bytes == 9


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


def phases_of(document: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """Return a document's phases by subject and name, whose sums are checked."""
    profile = document["profile"]
    found = {(part["subject"], use["phase"]): use for part in profile["subjects"] for use in part["phases"]}
    for what in ("seconds", "processor_seconds"):
        whole = sum(use[what] or 0.0 for use in found.values()) + (profile["unattributed"][what] or 0.0)
        assert whole == pytest.approx(profile[what], abs=1e-4)
        assert profile["unattributed"][what] >= 0
    return found


def test_validate_shows_where_time_went(command: InProcess, tiny: Checkpoint, tmp_path: Path) -> None:
    bundle = build(tiny, recipe_named("gguf-f16"), tmp_path / "bundle")
    arguments = ("validate", str(bundle.path), "--against", str(tiny.path), "--tokens", "64")
    plain = command(*arguments, "--json", "--profile").document
    phases = phases_of(plain)
    assert {name for _, name in phases} >= {"hash", "oracle", "reference", "open", "compare", "generate", "speed"}
    assert {subject for subject, _ in phases} == {"gguf-f16"}
    assert phases["gguf-f16", "speed"]["seconds"] > 0
    assert phases["gguf-f16", "speed"]["processor_seconds"] > 0
    assert "profile" not in plain["result"]


def test_build_shows_it_in_the_same_form(command: InProcess, tmp_path: Path) -> None:
    checkpoint = write_tiny(tmp_path / "checkpoint")
    recipes = ("--recipe", "gguf-q4_0", "--recipe", "onnx-int4")
    built = command("build", str(checkpoint), *recipes, "-o", str(tmp_path / "out"), "--json", "--profile").document
    phases = phases_of(built)
    for recipe in ("gguf-q4_0", "onnx-int4"):
        assert {(recipe, kind) for kind in ("quantize", "write", "hash")} <= set(phases)
        assert phases[recipe, "write"]["worked_bytes"] > 0
    assert "phases" not in built["result"]["bundles"][0]


def test_release_shows_what_is_hashed_drawn_and_registered_too(project: Path) -> None:
    done = run_in(project)("release", "--only", "galaxy-s24", "--json", "--profile")
    phases = phases_of(document_of(done))
    kinds = ("write", "hash", "store", "reference", "compare", "report", "register")
    assert {("galaxy-s24", kind) for kind in kinds} <= set(phases)
    assert {kind for subject, kind in phases if not subject} == {"hash", "register"}  # the checkpoint; what is planned
    assert all(use["seconds"] > 0 for use in phases.values())


def test_the_lock_of_another_process_is_waiting(tmp_path: Path) -> None:
    profiler = Profiler()
    cache = BuildCache(tmp_path)
    with cache.validating():
        pass  # the folder is there
    taken, over = threading.Event(), threading.Event()

    def hold() -> None:
        with file_lock(cache.work_folder / "validation.lock"):
            taken.set()
            over.wait()

    def receive(event: object) -> None:
        if isinstance(event, Phase):
            profiler.add(event)
            over.set()

    holder = threading.Thread(target=hold)
    holder.start()
    taken.wait()
    with cache.validating(receive):  # type: ignore[arg-type] # it takes any event
        holder.join()
    (use,) = profiler.end().subjects[0].phases
    assert isinstance(use, PhaseUse)
    assert use.phase == "wait"
    assert use.seconds > 0
