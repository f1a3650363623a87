"""Statistics for builds: measured once, whoever needs them. What was interrupted goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders.build import build, build_each
from builders.build_cache import BuildCache
from builders.calibrate import calibrate, calibrate_requests, run_walk
from builders.checkpoint import Checkpoint, open_checkpoint
from builders.checkpoint.lockstep import Lockstep
from builders.conversion import BuildRequest
from builders.quantization.calibration import measure
from builders.quantization.calibration.measure import MeasuredStatistics
from builders.quantization.calibration.moments import MomentFiles
from builders.quantization.calibration.walks import CalibrationWalk
from targets.calibration import Calibration, CalibrationSettings
from targets.errors import BuildError, CalibrationError
from targets.progress import Event, Notice, Step
from targets.recipes import recipe_named
from tests.support import llama_cpp as llamacpp
from tests.support.checkpoints import Tiny, random_weights, write_tiny, write_weights
from tests.support.folders import names_in

BUILT_IN = CalibrationSettings()
RECIPES = ("onnx-int4", "coreml-int4", "gguf-q4_0")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A checkpoint that is quick to run: sequences of 64 tokens."""
    return open_checkpoint(write_tiny(tmp_path_factory.mktemp("small") / "checkpoint", context=64))


@pytest.fixture(scope="module")
def full(small: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> MeasuredStatistics:
    """Its second moments. Don't remove them."""
    return calibrate(small, "full", BUILT_IN, BuildCache(tmp_path_factory.mktemp("full")))


@pytest.fixture
def cache(tmp_path: Path) -> BuildCache:
    return BuildCache(tmp_path / "home")


def requests(checkpoint: Checkpoint, out: Path, names: tuple[str, ...] = RECIPES) -> dict[Path, BuildRequest]:
    return {out / name: BuildRequest.from_checkpoint(checkpoint, recipe_named(name), 64) for name in names}


@pytest.fixture
def walks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The levels that were measured, in order, and not taken from the cache by the caller."""
    asked: list[str] = []
    original = measure.measured_statistics

    def counted(checkpoint: Checkpoint, calibration: Calibration, *rest: object) -> MeasuredStatistics:
        asked.append(calibration)
        return original(checkpoint, calibration, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr("builders.calibrate.measured_statistics", counted)
    return asked


def test_requests_of_a_level_share_statistics(
    small: Checkpoint, tmp_path: Path, cache: BuildCache, walks: list[str]
) -> None:
    asked = requests(small, tmp_path, ("onnx-int4", "coreml-int4", "gguf-f16"))
    chosen = {place: "none" if place.name == "gguf-f16" else "light" for place in asked}
    ready, problems = calibrate_requests(asked, chosen, BUILT_IN, cache)  # type: ignore[arg-type]
    assert problems == {}
    assert walks == ["light"]
    onnx, coreml, plain = ready.values()
    assert onnx.statistics is coreml.statistics is not None
    assert plain.statistics is None


def test_a_level_that_fails_takes_its_own_requests_with_it(
    small: Checkpoint, tmp_path: Path, cache: BuildCache
) -> None:
    (tmp_path / "short.txt").write_text("too short", "utf-8")
    asked = requests(small, tmp_path, ("onnx-int4", "gguf-f16"))
    chosen: dict[Path, Calibration] = {tmp_path / "onnx-int4": "light", tmp_path / "gguf-f16": "none"}
    ready, problems = calibrate_requests(asked, chosen, CalibrationSettings(tmp_path / "short.txt"), cache)
    assert list(ready) == [tmp_path / "gguf-f16"]
    assert [type(problem) for problem in problems.values()] == [CalibrationError]


def test_a_walk_is_called_what_it_is_done_for(small: Checkpoint, tmp_path: Path) -> None:
    events: list[Event] = []
    calibrate(small, "light", BUILT_IN, BuildCache(tmp_path), events.append)
    assert {event.name for event in events if isinstance(event, Step)} == {"calibrate"}


def test_builds_in_lockstep_fold_like_single_ones(small: Checkpoint, tmp_path: Path, cache: BuildCache) -> None:
    """The tensors that builds share are the checkpoint's: one that is not calibrated next to them keeps its bytes."""
    asked = requests(small, tmp_path / "together", ("onnx-int4", "gguf-f16"))
    chosen: dict[Path, Calibration] = {place: "light" for place in asked if place.name == "onnx-int4"}
    ready, _ = calibrate_requests(asked, chosen | {tmp_path / "together/gguf-f16": "none"}, BUILT_IN, cache)
    digests = {}
    assert build_each(ready, done=lambda place, bundle: digests.update({place.name: bundle.digest})) == {}
    light = calibrate(small, "light", BUILT_IN, cache)
    for name, statistics in (("onnx-int4", light), ("gguf-f16", None)):
        alone = build(small, recipe_named(name), tmp_path / "alone" / name, context_length=64, statistics=statistics)
        assert alone.digest == digests[name]
    entry = build(
        small, recipe_named("onnx-int4"), tmp_path / "again", context_length=64, statistics=light
    ).manifest.recipe.calibration
    assert entry is not None
    assert (entry.level, entry.text, entry.tokens) == ("light", light.text_digest, 2048)


class SlowlyKept(dict[str, Any]):
    """What was read last, kept so slowly that another thread comes in between."""

    def __setitem__(self, name: str, value: Any) -> None:
        super().__setitem__(name, value)
        time.sleep(0.01)


def test_builds_in_lockstep_may_read_different_moments(full: MeasuredStatistics) -> None:
    """One object serves several threads, each at a layer of its own."""
    found = full.moments
    assert found is not None
    shared = MomentFiles(found.folder, found.architecture, SlowlyKept())
    names = [f"model.layers.{layer}.mlp.down_proj.weight" for layer in (0, 1)] * 4
    with ThreadPoolExecutor(2) as pool:
        read = list(pool.map(shared.of, names))
    for name, blocks in zip(names, read, strict=True):
        assert np.array_equal(blocks[0], found.of(name)[0])


def test_moments_that_were_removed_meanwhile_are_an_error_of_ours(full: MeasuredStatistics, tmp_path: Path) -> None:
    removed = replace(full, moments=MomentFiles(tmp_path / "removed", full.architecture))
    with pytest.raises(BuildError, match="can't be read any more") as error:
        removed.of("model.layers.0.mlp.down_proj.weight")
    assert "run the same command again" in error.value.fix


class StoppedError(Exception):
    """What ends a run."""


def stop_at(layer: int) -> Callable[[Event], None]:
    def on_progress(event: Event) -> None:
        if isinstance(event, Step) and event.name == "calibrate" and event.done == layer:
            raise StoppedError

    return on_progress


def test_a_stopped_full_run_goes_on_and_gives_the_same_bytes(
    small: Checkpoint, full: MeasuredStatistics, tmp_path: Path
) -> None:
    stopped = BuildCache(tmp_path / "stopped")
    with pytest.raises(StoppedError):
        calibrate(small, "full", BUILT_IN, stopped, stop_at(1))
    assert not [name for name in names_in(stopped.reference_folder) if name.endswith(".new")]
    done: list[int] = []
    again = calibrate(
        small, "full", BUILT_IN, stopped, lambda event: done.append(event.done) if isinstance(event, Step) else None
    )
    assert done == [1, 2]  # of two layers
    digests = [
        build(small, recipe_named("onnx-int4"), tmp_path / name, context_length=64, statistics=statistics).digest
        for name, statistics in (("a", again), ("b", full))
    ]
    assert digests[0] == digests[1]


@dataclass
class Recorded:
    """Keeps what walks took. Implements `SharedWalks`."""

    seconds: list[float | None] = field(default_factory=list)

    def fetch(self, walk: CalibrationWalk, folder: Path, names: Sequence[str]) -> bool:
        return False

    def add(self, walk: CalibrationWalk, folder: Path, names: Sequence[str], seconds: float | None) -> bool:
        self.seconds.append(seconds)
        return True


def test_what_a_walk_took_is_recorded_only_where_it_was_done_in_one_go(small: Checkpoint, cache: BuildCache) -> None:
    shared = Recorded()
    with pytest.raises(StoppedError):
        calibrate(small, "full", BUILT_IN, cache, stop_at(1), shared)
    again: tuple[Calibration, ...] = ("full", "full", "light")  # the rest of it; nothing of it; a whole one
    for level in again:
        calibrate(small, level, BUILT_IN, cache, shared=shared)
    run_walk(small, CalibrationWalk("light", "affine"), BUILT_IN, cache, shared=shared)
    (measured,) = cache.reference_folder.glob("*.sensitivities")
    measured.rename(measured.with_name(f"{measured.name}.states"))
    run_walk(small, CalibrationWalk("light", "affine"), BUILT_IN, cache, shared=shared)
    assert [seconds is None for seconds in shared.seconds] == [True, True, False, False, True]


def test_what_is_in_the_cache_waits_for_no_other_walk(small: Checkpoint, cache: BuildCache) -> None:
    """Another process may be at a `full` walk, which takes most of an hour."""
    calibrate(small, "light", BUILT_IN, cache)
    run_walk(small, CalibrationWalk("light", "affine"), BUILT_IN, cache)
    waited: list[Event] = []
    with ThreadPoolExecutor(1) as pool:
        with cache.calibrating():
            kept = pool.submit(calibrate, small, "light", BUILT_IN, cache, waited.append)
            assert kept.result(60).calibration == "light"
            pool.submit(run_walk, small, CalibrationWalk("light", "affine"), BUILT_IN, cache).result(60)
            assert [event for event in waited if isinstance(event, Notice)] == []
            other = pool.submit(calibrate, small, "full", BUILT_IN, cache, waited.append)
            while not any(isinstance(event, Notice) for event in waited):
                assert not other.done()
                time.sleep(0.01)
        assert other.result(60).calibration == "full"


def test_a_full_walk_has_freed_memory_returned(
    small: Checkpoint, cache: BuildCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What that saves shows with large matrices alone: docs/benchmarks/full-size.md."""
    asked: list[bool] = []
    monkeypatch.setattr(measure, "return_large_blocks", lambda: asked.append(True))
    calibrate(small, "light", BUILT_IN, cache)
    assert asked == []
    calibrate(small, "full", BUILT_IN, cache)
    assert asked == [True]


def test_an_interrupt_while_builds_are_started_ends_those_that_run(
    small: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard, cancel = threading.Event(), Lockstep.cancel

    def cancelled(lockstep: Lockstep) -> None:
        cancel(lockstep)
        heard.set()

    class Interrupted(ThreadPoolExecutor):
        def submit(self, *work: Any, **named: Any) -> Any:
            started = super().submit(*work, **named)
            if work[2] == tmp_path / "first":
                raise KeyboardInterrupt
            return started

    monkeypatch.setattr(Lockstep, "cancel", cancelled)
    monkeypatch.setattr("builders.build.ThreadPoolExecutor", Interrupted)
    request = BuildRequest.from_checkpoint(small, recipe_named("gguf-f16"), 64, lambda _: heard.wait(1) and None)
    with pytest.raises(KeyboardInterrupt):
        build_each({tmp_path / "first": request})
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("recipe", ["gguf-q4_0", "onnx-int4", "coreml-int4"])
def test_a_matrix_without_input_is_named_and_rounded_as_if_uncalibrated(recipe: str, tmp_path: Path) -> None:
    name = "model.layers.0.self_attn.o_proj.weight"
    weights = random_weights(Tiny().config())
    weights["model.layers.0.self_attn.qkv_proj.weight"][:] = 0
    write_weights(write_tiny(tmp_path / "checkpoint"), weights, dtype="F32")
    checkpoint = open_checkpoint(tmp_path / "checkpoint")
    found = calibrate(checkpoint, "full", BUILT_IN, BuildCache(tmp_path / "home"))
    said: list[Event] = []
    full = build(checkpoint, recipe_named(recipe), tmp_path / "full", statistics=found, on_progress=said.append)
    plain = build(checkpoint, recipe_named(recipe), tmp_path / "plain")
    (note,) = set(full.manifest.recipe.notes) - set(plain.manifest.recipe.notes)
    assert note == (
        f"rounded without calibration, as what they are multiplied with is all zero, or not finite, on its text: {name}"
    )
    assert note in [event.text for event in said if isinstance(event, Notice)]
    if recipe == "gguf-q4_0":
        of_full, of_plain = (llamacpp.tensors(bundle.file("model.gguf")) for bundle in (full, plain))
        assert of_full["blk.0.attn_output.weight"] == of_plain["blk.0.attn_output.weight"]
        assert of_full["blk.0.ffn_down.weight"] != of_plain["blk.0.ffn_down.weight"]
