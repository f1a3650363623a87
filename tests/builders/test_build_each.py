"""Several bundles from one read: the same bytes as one by one, and none harmed by another's failure."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from builders.build import build, build_each
from builders.checkpoint import Checkpoint, open_checkpoint
from builders.checkpoint.lockstep import LEAD_BYTES, LockstepSource, ReadCancelledError, SharedReads, in_lockstep
from builders.conversion import BuildRequest
from registry.bundle.folder import Bundle
from targets.errors import CheckpointError
from targets.progress import Event, Phase
from targets.recipes import recipe_named
from tests.support.checkpoints import random_weights, write_tiny, write_weights

RECIPES = ("gguf-f16", "gguf-q4_0", "onnx-int4", "onnx-fp16", "coreml-int4", "coreml-fp16")


def _requests(checkpoint: Path, out: Path, recipes: tuple[str, ...] = RECIPES) -> dict[Path, BuildRequest]:
    opened = open_checkpoint(checkpoint)
    return {out / name: BuildRequest.from_checkpoint(opened, recipe_named(name), 512) for name in recipes}


def test_the_bytes_are_those_of_single_builds(tmp_path: Path) -> None:
    checkpoint = write_tiny(tmp_path / "checkpoint", tied=True)
    together: dict[Path, Bundle] = {}
    assert build_each(_requests(checkpoint, tmp_path / "together"), done=together.__setitem__) == {}
    for name in RECIPES:
        alone = build(open_checkpoint(checkpoint), recipe_named(name), tmp_path / "alone" / name)
        assert together[tmp_path / "together" / name].digest == alone.digest


def test_each_tensor_is_read_once_and_counted_by_the_build_that_read_it(tmp_path: Path) -> None:
    checkpoint = write_tiny(tmp_path / "checkpoint")
    events: list[Event] = []
    opened = open_checkpoint(checkpoint)
    requests = {
        tmp_path / name: BuildRequest.from_checkpoint(opened, recipe_named(name), 512, events.append)
        for name in ("gguf-f16", "gguf-q4_0")
    }
    assert build_each(requests) == {}
    read = [event.worked_bytes for event in events if isinstance(event, Phase) and event.name == "read"]
    assert sum(read) == sum(tensor.bytes for tensor in open_checkpoint(checkpoint).stored_tensors.values())


def test_one_that_fails_leaves_the_others(tmp_path: Path) -> None:
    checkpoint = write_tiny(tmp_path / "checkpoint", dtype="F32")
    weights = random_weights(open_checkpoint(checkpoint).config)
    weights["lm_head.weight"][0, 0] = 1e5  # float16 can not, blocks with a float16 scale can
    write_weights(checkpoint, weights, dtype="F32")
    problems = build_each(_requests(checkpoint, tmp_path / "out", ("onnx-fp16", "gguf-q8_0")))
    assert {place.name: "lm_head.weight" in str(problem) for place, problem in problems.items()} == {"onnx-fp16": True}
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["gguf-q8_0"]


def test_a_damaged_tensor_fails_all_and_leaves_nothing(tmp_path: Path) -> None:
    checkpoint = write_tiny(tmp_path / "checkpoint")
    weights = random_weights(open_checkpoint(checkpoint).config)
    weights["model.norm.weight"][3] = float("nan")
    write_weights(checkpoint, weights)
    problems = build_each(_requests(checkpoint, tmp_path / "out"))
    assert [place.name for place in problems] == list(RECIPES)
    for problem in problems.values():
        assert isinstance(problem, CheckpointError)
        assert "model.norm.weight" in str(problem)
    assert list((tmp_path / "out").iterdir()) == []


def lockstep(checkpoint: Checkpoint, readers: int, lead_bytes: int = LEAD_BYTES) -> list[LockstepSource]:
    return in_lockstep(checkpoint, [checkpoint.open_tensors() for _ in range(readers)], lead_bytes)


def test_nobody_runs_far_ahead(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path / "checkpoint"))
    fast, slow = lockstep(checkpoint, 2, lead_bytes=1)
    names = list(checkpoint.architecture.tensor_shapes())
    read: list[str] = []

    def walk() -> None:
        for name in names:
            fast.tensor(name)
            read.append(name)
        fast.leave()

    thread = threading.Thread(target=walk)
    thread.start()
    time.sleep(0.1)
    assert read == names[:2]  # the second, which put it ahead, and no further
    slow.tensor(names[3])
    time.sleep(0.1)
    assert read == names[:5]
    slow.leave()
    thread.join()
    assert read == names


def test_the_slowest_never_waits_whatever_it_reads(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path / "checkpoint"))
    first, second = lockstep(checkpoint, 2, lead_bytes=1)
    for name in reversed(checkpoint.architecture.tensor_shapes()):
        first.tensor(name)
        second.tensor(name)


def test_a_run_that_is_ended_ends_every_reader(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path / "checkpoint"))
    (reader,) = lockstep(checkpoint, 1)
    reader.tensor("model.norm.weight")
    reader.cancel_all()
    with pytest.raises(ReadCancelledError):
        reader.tensor("model.norm.weight")


def test_what_one_has_read_is_the_others_and_then_let_go(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path / "checkpoint"))
    first, second = lockstep(checkpoint, 2)
    name = "model.layers.0.mlp.down_proj.weight"
    values = first.tensor(name)
    assert second.stored_tensor(name) is values
    assert first.tensor(name) is not values
    with pytest.raises(ValueError, match="read-only"):
        values[0] = 0


def test_only_so_much_is_kept() -> None:
    shared = SharedReads(2, kept_bytes=12)
    made = [np.zeros(2, np.float32) for _ in range(2)]
    for number, values in enumerate(made):
        assert shared.take((str(number),), lambda values=values: values) is values
    fresh = np.ones(2, np.float32)
    assert shared.take(("1",), lambda: fresh) is made[1]
    assert shared.take(("0",), lambda: fresh) is fresh


def test_a_read_that_fails_fails_for_each() -> None:
    shared = SharedReads(2)

    def broken() -> np.ndarray:
        raise CheckpointError("broken", fix="repair it")

    for _ in range(2):
        with pytest.raises(CheckpointError, match="broken"):
            shared.take(("tensor",), broken)
