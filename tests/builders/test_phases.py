"""What a build reports of its work: balanced phases, by its name, from every thread."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from builders.build import build
from builders.checkpoint import Checkpoint
from builders.phases import Phases
from targets.progress import Event, Phase, with_subject
from targets.recipes import recipe_named


def test_a_phase_is_reported_around_its_block() -> None:
    events: list[Event] = []
    phases = Phases(events.append, "gguf-f16")
    with phases.phase("write", 100), phases.phase("read"):
        assert len(events) == 2
    begun = [Phase("write", True, "gguf-f16", 100), Phase("read", True, "gguf-f16")]
    assert events == [*begun, Phase("read", False, "gguf-f16"), Phase("write", False, "gguf-f16")]


def test_one_that_fails_ends_as_well() -> None:
    events: list[Event] = []
    with pytest.raises(OSError, match="full"), Phases(events.append).phase("write"):
        raise OSError("full")
    assert events == [Phase("write", True), Phase("write", False)]


@pytest.mark.parametrize("recipe", ["gguf-q4_0", "onnx-int4", "coreml-int4"])
def test_a_build_says_what_it_does(tiny: Checkpoint, tmp_path: Path, recipe: str) -> None:
    open_phases: dict[int, list[str]] = {}
    seen: set[str] = set()

    def receive(event: Event) -> None:
        if isinstance(event, Phase):
            own = open_phases.setdefault(threading.get_ident(), [])
            assert event.subject == "cell"
            if event.begins:
                own.append(event.name)
                seen.add(event.name)
            else:
                assert own.pop() == event.name

    build(tiny, recipe_named(recipe), tmp_path / "out", on_progress=with_subject(receive, "cell"))
    assert seen >= {"read", "quantize", "write", "hash"}
    assert not any(open_phases.values())
