"""Statistics for builds: measured once, whoever needs them. What was interrupted goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from builders.build import build, build_each
from builders.build_cache import BuildCache
from builders.calibrate import calibrate, calibrate_requests
from builders.checkpoint import Checkpoint
from builders.conversion import BuildRequest
from builders.quantization.calibration import measure
from builders.quantization.calibration.statistics import CalibrationStatistics
from targets.calibration import Calibration, CalibrationSettings
from targets.errors import CalibrationError
from targets.progress import Event, Step
from targets.recipes import recipe_named
from tests.support.folders import names_in

BUILT_IN = CalibrationSettings()
RECIPES = ("onnx-int4", "coreml-int4", "gguf-q4_0")


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

    def counted(checkpoint: Checkpoint, calibration: Calibration, *rest: object) -> CalibrationStatistics:
        asked.append(calibration)
        return original(checkpoint, calibration, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr("builders.calibrate.measured_statistics", counted)
    return asked


def test_requests_of_a_level_share_statistics(
    tiny: Checkpoint, tmp_path: Path, cache: BuildCache, walks: list[str]
) -> None:
    asked = requests(tiny, tmp_path, ("onnx-int4", "coreml-int4", "gguf-f16"))
    chosen = {place: "none" if place.name == "gguf-f16" else "light" for place in asked}
    ready, problems = calibrate_requests(asked, chosen, BUILT_IN, cache)  # type: ignore[arg-type]
    assert problems == {}
    assert walks == ["light"]
    onnx, coreml, plain = ready.values()
    assert onnx.statistics is coreml.statistics is not None
    assert plain.statistics is None
    assert onnx.phases.seconds["calibrate"] > 0 == coreml.phases.seconds["calibrate"]


def test_a_level_that_fails_takes_its_own_requests_with_it(tiny: Checkpoint, tmp_path: Path, cache: BuildCache) -> None:
    (tmp_path / "short.txt").write_text("too short", "utf-8")
    asked = requests(tiny, tmp_path, ("onnx-int4", "gguf-f16"))
    chosen: dict[Path, Calibration] = {tmp_path / "onnx-int4": "light", tmp_path / "gguf-f16": "none"}
    ready, problems = calibrate_requests(asked, chosen, CalibrationSettings(tmp_path / "short.txt"), cache)
    assert list(ready) == [tmp_path / "gguf-f16"]
    assert [type(problem) for problem in problems.values()] == [CalibrationError]


def test_builds_in_lockstep_fold_like_single_ones(tiny: Checkpoint, tmp_path: Path, cache: BuildCache) -> None:
    """The tensors that builds share are the checkpoint's: one that is not calibrated next to them keeps its bytes."""
    asked = requests(tiny, tmp_path / "together", ("onnx-int4", "gguf-f16"))
    chosen: dict[Path, Calibration] = {place: "light" for place in asked if place.name == "onnx-int4"}
    ready, _ = calibrate_requests(asked, chosen | {tmp_path / "together/gguf-f16": "none"}, BUILT_IN, cache)
    digests = {}
    assert build_each(ready, done=lambda place, bundle: digests.update({place.name: bundle.digest})) == {}
    light = calibrate(tiny, "light", BUILT_IN, cache)
    for name, statistics in (("onnx-int4", light), ("gguf-f16", None)):
        alone = build(tiny, recipe_named(name), tmp_path / "alone" / name, context_length=64, statistics=statistics)
        assert alone.digest == digests[name]
    entry = build(
        tiny, recipe_named("onnx-int4"), tmp_path / "again", context_length=64, statistics=light
    ).manifest.recipe.calibration
    assert entry is not None
    assert (entry.level, entry.text, entry.tokens) == ("light", light.text_digest, 2048)


class StoppedError(Exception):
    """What ends a run."""


def stop_at(layer: int) -> Callable[[Event], None]:
    def on_progress(event: Event) -> None:
        if isinstance(event, Step) and event.name == "calibrate" and event.done == layer:
            raise StoppedError

    return on_progress


def test_a_stopped_full_run_goes_on_and_gives_the_same_bytes(tiny: Checkpoint, tmp_path: Path) -> None:
    stopped, whole = BuildCache(tmp_path / "stopped"), BuildCache(tmp_path / "whole")
    with pytest.raises(StoppedError):
        calibrate(tiny, "full", BUILT_IN, stopped, stop_at(1))
    assert not [name for name in names_in(stopped.reference_folder) if name.endswith(".new")]
    done: list[int] = []
    again = calibrate(
        tiny, "full", BUILT_IN, stopped, lambda event: done.append(event.done) if isinstance(event, Step) else None
    )
    assert done == [1, 2]  # of two layers
    digests = [
        build(tiny, recipe_named("onnx-int4"), tmp_path / name, context_length=64, statistics=statistics).digest
        for name, statistics in (("a", again), ("b", calibrate(tiny, "full", BUILT_IN, whole)))
    ]
    assert digests[0] == digests[1]
