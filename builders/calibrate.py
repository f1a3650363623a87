"""Statistics of a checkpoint for `light` and `full` builds: measured once on this machine, whoever needs them.

They stay in the cache, by checkpoint and tokens, so the cells of a release share them, and so do later releases. A run
that is killed goes on at the layer where it stopped. Recipes with a budget get their types here, too. Whoever shares
results with other machines passes a `SharedWalks`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from builders.build_cache import BuildCache
from builders.checkpoint import Checkpoint
from builders.choose_types import require_reachable, with_chosen_types
from builders.conversion import BuildRequest
from builders.quantization.calibration.imatrix import read_imatrix
from builders.quantization.calibration.measure import (
    MeasuredStatistics,
    measured_statistics,
    statistics_files,
    with_cache_ranges,
)
from builders.quantization.calibration.special_tokens import special_token_windows
from builders.quantization.calibration.text import calibration_windows
from builders.quantization.calibration.walks import Blocks, CalibrationWalk, NotShared, SharedWalks, blocks_of
from builders.quantization.fold import fold_factors
from builders.quantization.sensitivity_cache import measured_sensitivities, sensitivity_file, sensitivity_windows
from registry.files.digests import digest_of_file
from targets.calibration import Calibration, CalibrationSettings
from targets.errors import CalibrationError, CheckpointError, PhipackError
from targets.progress import Event, Progress, Step, silent
from targets.recipes import check_budget

NOT_SHARED = NotShared()
_Found = TypeVar("_Found")


def calibrate(
    checkpoint: Checkpoint,
    calibration: Calibration,
    settings: CalibrationSettings,
    cache: BuildCache,
    on_progress: Progress = silent,
    shared: SharedWalks = NOT_SHARED,
) -> MeasuredStatistics:
    """Return what a checkpoint's matrices are multiplied with, from the cache or measured.

    Args:
        checkpoint: what is run, in float32.
        calibration: `light` or `full`.
        settings: what is read.
        cache: where statistics are kept. Other processes that have to measure some wait meanwhile.
        on_progress: receives the step `calibrate`.
        shared: where what another machine has measured is taken from, and where it is recorded.

    Raises:
        CalibrationError: the text can't be read, or is too short; or the importance matrix is another model's.
        CheckpointError: the checkpoint is damaged. BuildError: the disk is full. StoreError: as `shared` raises.
    """
    if settings.imatrix is not None:
        return _of_imatrix(checkpoint, settings.imatrix)
    windows = calibration_windows(checkpoint, settings, calibration)
    names = statistics_files(checkpoint, calibration, windows)
    with _measuring(names, cache, on_progress):
        folder, walking = cache.reference_folder, _calibrating(on_progress)
        return _once(
            checkpoint,
            (CalibrationWalk(calibration), folder, names),
            lambda: measured_statistics(checkpoint, calibration, windows, folder, walking),
            shared,
        )


def with_special_tokens(
    statistics: MeasuredStatistics,
    checkpoint: Checkpoint,
    settings: CalibrationSettings,
    cache: BuildCache,
    on_progress: Progress = silent,
    shared: SharedWalks = NOT_SHARED,
) -> MeasuredStatistics:
    """Return statistics with the ranges of a KV cache, for which special tokens are read, too. Raises as `calibrate`.

    Only builds with a scaled cache need it. It takes a walk over short sequences, kept and shared as others are.
    """
    if statistics.text_ranges is None:
        return statistics
    sequences = special_token_windows(checkpoint, calibration_windows(checkpoint, settings, "light"))
    names = statistics_files(checkpoint, "light", sequences) if sequences.size else []
    with _measuring(names, cache, on_progress):
        folder, walking = cache.reference_folder, _calibrating(on_progress)
        return _once(
            checkpoint,
            (CalibrationWalk("light", special_tokens=True), folder, names),
            lambda: with_cache_ranges(statistics, checkpoint, sequences, folder, walking),
            shared if names else NOT_SHARED,
        )


def run_walk(
    checkpoint: Checkpoint,
    walk: CalibrationWalk,
    settings: CalibrationSettings,
    cache: BuildCache,
    on_progress: Progress = silent,
    shared: SharedWalks = NOT_SHARED,
) -> None:
    """Measure what a walk does, where it is not in the cache or shared. Raises as `calibrate`."""
    if walk.blocks is None:
        calibrate(checkpoint, walk.level, settings, cache, on_progress, shared)
    else:
        _sensitivities(checkpoint, walk.blocks, settings, cache, on_progress, shared)


def _sensitivities(
    checkpoint: Checkpoint,
    blocks: Blocks,
    settings: CalibrationSettings,
    cache: BuildCache,
    on_progress: Progress,
    shared: SharedWalks,
) -> dict[str, float]:
    windows = sensitivity_windows(calibration_windows(checkpoint, settings, "light"))
    names = [sensitivity_file(checkpoint, blocks, windows)]
    with _measuring(names, cache, on_progress):
        folder, walking = cache.reference_folder, _calibrating(on_progress)
        return _once(
            checkpoint,
            (CalibrationWalk("light", blocks), folder, names),
            lambda: measured_sensitivities(checkpoint, blocks, windows, folder, walking),
            shared,
        )


def _measuring(names: Sequence[str], cache: BuildCache, on_progress: Progress) -> AbstractContextManager[None]:
    """Keep other processes from calibrating; where all is in the cache, nobody is waited for: a walk takes minutes."""
    if all((cache.reference_folder / name).is_file() for name in names):
        return nullcontext()
    return cache.calibrating(on_progress)


def _calibrating(on_progress: Progress) -> Progress:
    """Return a receiver that calls the walk of the float32 reference what it is done for; the rest is unchanged."""

    def receive(event: Event) -> None:
        if isinstance(event, Step) and event.name == "reference":
            event = replace(event, name="calibrate")
        on_progress(event)

    return receive


def _once(
    checkpoint: Checkpoint,
    what: tuple[CalibrationWalk, Path, Sequence[str]],
    measured: Callable[[], _Found],
    shared: SharedWalks,
) -> _Found:
    """Return what a walk measures; what the machine has measured that recorded it first, where one has.

    Args:
        checkpoint: what is walked over. Where it was changed meanwhile, `CheckpointError` is raised, and no file stays.
        what: the walk, and the files that it leaves in a folder.
        measured: reads these files, or makes them.
        shared: where they are shared.
    """
    walk, folder, names = what

    def of_one_checkpoint() -> _Found:
        found = measured()
        try:
            checkpoint.require_unchanged()
        except CheckpointError:
            for name in names:
                (folder / name).unlink(missing_ok=True)
            raise
        return found

    if shared.fetch(walk, folder, names):
        return of_one_checkpoint()
    is_begun = any((folder / kept).exists() for name in names for kept in (name, f"{name}.states"))
    started = time.monotonic()
    found = of_one_checkpoint()
    if not shared.add(walk, folder, names, None if is_begun else time.monotonic() - started):
        shared.fetch(walk, folder, names)
        found = of_one_checkpoint()
    return found


def _of_imatrix(checkpoint: Checkpoint, path: Path) -> MeasuredStatistics:
    architecture = checkpoint.architecture
    squares = read_imatrix(path, architecture)
    factors = fold_factors(architecture, squares)
    return MeasuredStatistics(architecture, "light", digest_of_file(path), 0, squares, factors)


def calibrate_requests(
    requests: Mapping[Path, BuildRequest],
    levels: Mapping[Path, Calibration],
    settings: CalibrationSettings,
    cache: BuildCache,
    shared: SharedWalks = NOT_SHARED,
) -> tuple[dict[Path, BuildRequest], dict[Path, PhipackError]]:
    """Return requests of one checkpoint with the statistics of their levels, measured once a level; and what failed.

    A request whose recipe has a budget comes back with the types that were chosen for it, and its `choice`.

    `levels`: of each request, by its place. A level that fails takes its own requests with it, and no others.
    """
    ready, problems = dict(requests), dict[Path, PhipackError]()

    def change(place: Path, work: Callable[[BuildRequest], BuildRequest]) -> None:
        try:
            ready[place] = work(ready[place])
        except PhipackError as error:
            problems[place] = error
            del ready[place]

    for place in requests:  # before anything is measured
        change(place, partial(_checked, level=levels[place], settings=settings))
    for level in sorted({levels[place] for place in ready} - {"none"}):
        places = [place for place in ready if levels[place] == level]
        first = requests[places[0]]
        try:
            with first.phases.phase("calibrate"):
                found = calibrate(first.checkpoint, level, settings, cache, first.on_progress, shared)
        except PhipackError as error:
            problems |= dict.fromkeys(places, error)
            ready = {place: request for place, request in ready.items() if place not in problems}
            continue
        ready |= {place: replace(requests[place], statistics=found) for place in places}
    for place in [*ready]:
        change(place, partial(_with_ranges, settings=settings, cache=cache, shared=shared))
    for place in [*ready]:
        change(place, partial(_with_types, settings=settings, cache=cache, shared=shared))
    return ready, problems


def _with_ranges(
    request: BuildRequest, settings: CalibrationSettings, cache: BuildCache, shared: SharedWalks
) -> BuildRequest:
    """Return a request with the ranges of its KV cache, where its recipe has a scaled one."""
    statistics = request.statistics
    if not request.recipe.has_scaled_cache or not isinstance(statistics, MeasuredStatistics):
        return request
    with request.phases.phase("calibrate"):
        found = with_special_tokens(statistics, request.checkpoint, settings, cache, request.on_progress, shared)
    return replace(request, statistics=found)


def _needs_types(request: BuildRequest) -> bool:
    return request.recipe.budget is not None and not request.recipe.types


def _checked(request: BuildRequest, level: Calibration, settings: CalibrationSettings) -> BuildRequest:
    """Return a request whose budget, if it has one, can be met."""
    if not _needs_types(request):
        return request
    check_budget(request.recipe, level)
    if settings.imatrix is not None:
        raise CalibrationError(
            f"{settings.imatrix}: types for a budget are chosen by what they do to the model's answers to a text, "
            "which an importance matrix does not have",
            fix="calibrate on a text, or remove the budget",
        )
    require_reachable(request)
    return request


def _with_types(
    request: BuildRequest, settings: CalibrationSettings, cache: BuildCache, shared: SharedWalks
) -> BuildRequest:
    """Return a request with the types that its budget allows. What they are chosen by is measured once a format."""
    if not _needs_types(request):
        return request
    blocks = blocks_of(request.recipe.format)
    with request.phases.phase("calibrate"):
        found = _sensitivities(request.checkpoint, blocks, settings, cache, request.on_progress, shared)
    return with_chosen_types(request, found)
