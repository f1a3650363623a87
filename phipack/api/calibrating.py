"""What a checkpoint's matrices are multiplied with, measured for builds to come. Needs `phipack[build]`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from phipack.api.arguments import AnyPath, as_checkpoint, as_path
from phipack.api.results import CalibrationReport
from targets.calibration import Calibration, CalibrationSettings
from targets.errors import CalibrationError
from targets.evaluation import EvaluationSettings
from targets.progress import Notice, Progress, silent
from targets.recipes import Recipe, check_budget, check_calibration, default_calibration

if TYPE_CHECKING:
    from builders.checkpoint import Checkpoint


def calibrate(
    checkpoint: AnyPath | Checkpoint,
    *,
    level: Calibration = "light",
    text: AnyPath | None = None,
    imatrix: AnyPath | None = None,
    home: AnyPath | None = None,
    on_progress: Progress = silent,
) -> CalibrationReport:
    """Measure what calibrated builds of a checkpoint need, and keep it, so that they start at once.

    Args:
        checkpoint: a folder, or what `open_checkpoint` returned.
        level: `light` or `full`.
        text: to read; one that comes with phipack by default.
        imatrix: write the importance matrix here, in llama.cpp's format, for its llama-quantize.
        home: the folder whose `cache` keeps it; `.phipack` by default.
        on_progress: called with each step.

    Raises:
        CalibrationError: the text is too short, or has passages of the built-in evaluation text; or what an importance
            matrix would hold is not finite.
        UnsupportedModelError: llama.cpp has no importance matrix of such a model.
        CheckpointError: the checkpoint is damaged. BuildError: the disk is full.
    """
    from builders.build_cache import DEFAULT_ROOT, BuildCache
    from builders.calibrate import calibrate as measure
    from builders.quantization.calibration.imatrix import require_finite, require_names, write_imatrix
    from builders.quantization.calibration.statistics import unusable_note
    from builders.quantization.calibration.text import WINDOW, read_calibration_text
    from registry.files.output_file import check_output_file

    if level == "none":
        raise CalibrationError("level none measures nothing", fix="choose light or full")
    opened = as_checkpoint(checkpoint)
    settings = CalibrationSettings(None if text is None else as_path(text))
    _require_unseen(settings)
    matrix = None if imatrix is None else as_path(imatrix)
    if matrix is not None:
        require_names(opened.architecture)
        check_output_file(matrix)
    cache = BuildCache(DEFAULT_ROOT if home is None else as_path(home))
    started = time.perf_counter()
    found, name = measure(opened, level, settings, cache, on_progress), read_calibration_text(settings).name
    if found.unusable:
        on_progress(Notice(unusable_note(found.unusable)))
    if matrix is not None:
        require_finite(found.squares)
        write_imatrix(
            matrix,
            found.squares,
            opened.architecture,
            token_count=found.token_count,
            window_length=min(WINDOW, opened.architecture.context_length),
            datasets=[name],
        )
    return CalibrationReport(
        level=level,
        text=name,
        text_digest=found.text_digest,
        tokens=found.token_count,
        seconds=time.perf_counter() - started,
        folder=cache.reference_folder,
        imatrix=matrix,
    )


def choose_levels(
    recipes: Mapping[Path, Recipe], calibration: Calibration | None, settings: CalibrationSettings
) -> dict[Path, Calibration]:
    """Return the calibration of each recipe's build: the one that is asked for, else the recipe's default.

    Raises:
        RecipeError: a recipe can't be calibrated as is asked.
        CalibrationError: the settings don't go with the calibration, or have passages of the built-in evaluation text.
    """
    asked = "light" if calibration is None and settings.imatrix is not None else calibration
    levels = {place: asked or default_calibration(recipe) for place, recipe in recipes.items()}
    for place, recipe in recipes.items():
        check_budget(recipe, levels[place])
        check_calibration(recipe, levels[place])
    source = settings.imatrix or settings.text
    if source is not None and set(levels.values()) == {"none"}:
        raise CalibrationError(
            f"nothing is calibrated here, so {source} would not be read", fix="ask for calibration light or full"
        )
    if settings.imatrix is not None and any(recipe.budget is not None for recipe in recipes.values()):
        raise CalibrationError(
            f"{settings.imatrix}: types for a budget are chosen by what they do to the model's answers to a text, "
            "which an importance matrix does not have",
            fix="calibrate on a text, or remove the budget",
        )
    if settings.imatrix is not None and any(recipe.has_scaled_cache for recipe in recipes.values()):
        raise CalibrationError(
            f"{settings.imatrix}: the scales of an int8 KV cache follow from how large keys and values become, "
            "which an importance matrix does not have",
            fix="calibrate on a text, or remove the type of the KV cache",
        )
    if settings.imatrix is not None and "full" in levels.values():
        raise CalibrationError(
            f"{settings.imatrix}: an importance matrix has no more than light calibration needs",
            fix="choose light, or calibrate on a text",
        )
    if set(levels.values()) != {"none"} and settings.imatrix is None:
        _require_unseen(settings)
    return levels


def _require_unseen(settings: CalibrationSettings) -> None:
    """Refuse a text that has passages of those that bundles are evaluated on by default."""
    from builders.quantization.calibration.overlap import require_unseen
    from builders.quantization.calibration.text import read_calibration_text
    from builders.validation.sampled_texts import plain_texts

    if settings.text is not None:
        for name, text in plain_texts(EvaluationSettings(suite="full")).items():
            require_unseen(read_calibration_text(settings), text, name)
