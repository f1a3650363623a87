"""Checkpoints in, bundles out. Needs `phipack[build]`, but for `inspect` of a bundle."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace as replace_fields
from pathlib import Path
from typing import TYPE_CHECKING

from phipack.api.arguments import AnyPath, as_checkpoint, as_path, as_recipe, as_target
from phipack.api.calibrating import choose_levels
from phipack.api.results import BuildOutcome, BuildReport, ExportedModel, WrittenCheckpoint
from registry.bundle.folder import Bundle, open_bundle, verify
from registry.bundle.manifest import MANIFEST_NAME
from registry.bundle.requirements import check_requirements
from targets.budget import Budget
from targets.budget_fit import stored_on
from targets.calibration import Calibration, CalibrationSettings
from targets.devices import Target
from targets.errors import RecipeError
from targets.kernels import fast_types
from targets.kv_cache import check_kv_cache, with_kv_cache
from targets.progress import Progress, silent
from targets.recipes import Recipe

if TYPE_CHECKING:
    from builders.checkpoint import Checkpoint
    from builders.conversion import BuildRequest
    from targets.architecture import Family


def open_checkpoint(folder: AnyPath, *, adapter: AnyPath | None = None) -> Checkpoint:
    """Open a Hugging Face folder: headers are checked, weights are read when needed.

    Args:
        folder: the checkpoint's, or the adapter's base.
        adapter: the folder of a peft adapter (LoRA): it is merged tensor by tensor, whenever one is read. All that
            takes a checkpoint takes what is returned.

    Raises:
        CheckpointError: one of the two is damaged, or the adapter belongs to another base.
        UnsupportedModelError: another architecture, or a kind of adapter that can't be merged.
    """
    return as_checkpoint(folder, adapter)


def build(  # noqa: PLR0913 - the public face
    checkpoint: AnyPath | Checkpoint,
    recipe: str | Recipe,
    out: AnyPath,
    *,
    target: AnyPath | Target | None = None,
    context_length: int | None = None,
    calibration: Calibration | None = None,
    calibration_settings: CalibrationSettings | None = None,
    budget: Budget | None = None,
    kv_cache: str | None = None,
    home: AnyPath | None = None,
    replace: bool = False,
    on_progress: Progress = silent,
) -> Bundle:
    """Build a bundle at `out`. The same checkpoint, recipe, context, calibration and tool versions give the same bytes.

    Args:
        checkpoint: a folder, or what `open_checkpoint` returned.
        recipe: such as `gguf-q4_k_m`; `list_recipes` returns them all.
        out: the bundle's folder; must not exist, unless `replace`.
        target: the device it must fit on; the context is then the longest that fits there, at most 4,096 tokens.
        context_length: the longest sequence in tokens, where it is not to be the default.
        calibration: what is learned from a text before weights are quantized: `none`, `light` or `full`; the recipe's
            default where it is not given, and `light` for an importance matrix.
        calibration_settings: a text to read in place of the one that comes with phipack, or an importance matrix.
        budget: how large the bundle may become: `Budget.of_size("2.0GB")`, `Budget.of_bits(4.2)`, or `Budget("fit")`,
            the largest that fits the target. Each matrix gets its type by measured sensitivity, from those that are
            fast on the target.
        kv_cache: the type of keys and values, such as `q8_0` in GGUF and `int8` in ONNX, where it is not to be the
            runtime's own floats.
        home: the folder whose `cache` keeps what was learned; `.phipack` by default.
        replace: replace what is at `out`.
        on_progress: called with each step.

    Raises:
        CheckpointError: the checkpoint is damaged, or of a kind that the recipe can't build.
        RecipeError: the recipe can't be calibrated; or the budget is below its smallest choice of types, or above its
            largest; or it has no such type of KV cache, or the model's heads can't be stored in it.
        CalibrationError: the text is too short, or has passages of the built-in evaluation text; or the importance
            matrix is another model's.
        FitError: it does not fit the target.
        BuildError: `out` exists or can't be written, or the disk is full. Nothing is left behind.
    """
    report = build_each(
        checkpoint,
        {as_recipe(recipe): out},
        target=target,
        context_length=context_length,
        calibration=calibration,
        calibration_settings=calibration_settings,
        budget=budget,
        kv_cache=kv_cache,
        home=home,
        replace=replace,
        on_progress=on_progress,
    )
    report.raise_for_failures()
    return report.bundles[0]


def build_each(  # noqa: PLR0913 - the public face
    checkpoint: AnyPath | Checkpoint,
    recipes: Mapping[str, AnyPath] | Mapping[Recipe, AnyPath],
    *,
    target: AnyPath | Target | None = None,
    context_length: int | None = None,
    calibration: Calibration | None = None,
    calibration_settings: CalibrationSettings | None = None,
    budget: Budget | None = None,
    kv_cache: str | None = None,
    home: AnyPath | None = None,
    replace: bool = False,
    on_progress: Progress = silent,
) -> BuildReport:
    """Build several bundles of one checkpoint, which is read once. The arguments are those of `build`.

    Args:
        checkpoint: a folder, or what `open_checkpoint` returned.
        recipes: each with the folder for its bundle.
        target: the device that they must fit on.
        context_length: the longest sequence in tokens.
        calibration: of all these recipes. They share what is learned.
        calibration_settings: what it is learned from.
        budget: of each of these recipes.
        kv_cache: of each of them.
        home: where that is kept.
        replace: replace what is at those folders.
        on_progress: called with each step.

    Returns:
        Every bundle, or what failed: a failure does not stop the others.

    Raises:
        RecipeError, TargetError, CheckpointError, FitError, CalibrationError: before anything is built.
    """
    from builders.build import build_each as build_bundles
    from builders.build_cache import DEFAULT_ROOT, BuildCache
    from builders.calibrate import calibrate_requests
    from builders.conversion import BuildRequest

    places = {as_path(out): as_recipe(given) for given, out in recipes.items()}
    if budget is not None:
        places = {place: replace_fields(recipe, budget=budget) for place, recipe in places.items()}
    if kv_cache is not None:
        places = {place: with_kv_cache(recipe, kv_cache) for place, recipe in places.items()}
    settings = calibration_settings or CalibrationSettings()
    levels = choose_levels(places, calibration, settings)
    opened = as_checkpoint(checkpoint)
    device = None if target is None else as_target(target)
    requests: dict[Path, BuildRequest] = {}
    for place, asked in places.items():
        recipe, context = _stored(opened, asked, device, context_length)
        requests[place] = BuildRequest.from_checkpoint(opened, recipe, context, on_progress)
    started = time.perf_counter()
    bundles: dict[Path, Bundle] = {}
    cache = BuildCache(DEFAULT_ROOT if home is None else as_path(home))
    ready, problems = calibrate_requests(requests, levels, settings, cache)
    if ready:
        problems |= build_bundles(ready, replace=replace, done=bundles.__setitem__)
    seconds = time.perf_counter() - started
    outcomes = [
        BuildOutcome(request.recipe.name, out, bundles.get(out), problems.get(out)) for out, request in requests.items()
    ]
    return BuildReport(tuple(outcomes), seconds)


def _stored(
    checkpoint: Checkpoint, recipe: Recipe, target: Target | None, context_length: int | None
) -> tuple[Recipe, int]:
    """Return a recipe as it is built, with its budget in bytes or bits, and the context in tokens."""
    from builders.conversion import default_context_length

    check_kv_cache(checkpoint.architecture, recipe)
    if target is not None:
        if recipe.budget is not None:
            recipe = replace_fields(recipe, candidates=fast_types(recipe.format, target))
        recipe, context = stored_on(checkpoint.architecture, recipe, target, context_length)
    else:
        context = context_length or default_context_length(checkpoint)
        if recipe.budget is not None and recipe.budget.kind == "fit":
            raise RecipeError("a budget that fits needs a device to fit on", fix="name a target, or ask for a size")
    if recipe.budget is not None:
        from builders.matrix.planned_size import planned_bytes

        planned_bytes(checkpoint, recipe, context)  # refuses what no choice of types can reach
    return recipe, context


def convert_layout(
    checkpoint: AnyPath | Checkpoint,
    layout: Family,
    out: AnyPath,
    *,
    replace: bool = False,
    on_progress: Progress = silent,
) -> WrittenCheckpoint:
    """Write a checkpoint's weights under another family's names: `llama`, or back to `phi3`.

    Raises:
        UnsupportedModelError: the layout can't hold what the model has.
        BuildError: `out` exists (unless `replace`) or can't be written.
    """
    from builders.relayout import relayout

    place = as_path(out)
    notes = relayout(as_checkpoint(checkpoint), layout, place, replace_existing=replace, on_progress=on_progress)
    return WrittenCheckpoint(place, layout, notes)


def export_onnx(
    checkpoint: AnyPath, out: AnyPath, *, replace: bool = False, on_progress: Progress = silent
) -> ExportedModel:
    """Export an architecture that phipack has no writer for, with optimum: a plain ONNX folder, not a bundle.

    optimum runs in an environment of its own, with transformers 4, which pip creates at the first call (70 MB, in
    `PHIPACK_CACHE` or the user's cache folder). The graph's logits are compared with those of transformers' own model.

    Raises:
        CheckpointError: no config or no safetensors.
        UnsupportedModelError: optimum does not know it either, or exports it wrongly.
        SetupError: the environment can't be created.
        BuildError: `out` exists (unless `replace`) or can't be written.
    """
    from builders.optimum_export import export

    place = as_path(out)
    return ExportedModel(place, tuple(export(as_path(checkpoint), place, replace=replace, on_progress=on_progress)))


def inspect(path: AnyPath, *, verify_files: bool = False) -> Bundle | Checkpoint:
    """Open what is in a folder, a bundle or a checkpoint. `verify_files`: read and check every byte of a bundle.

    Raises:
        BundleError: the bundle's manifest or files are not right. CheckpointError: it is no checkpoint either.
    """
    folder = as_path(path)
    if not (folder / MANIFEST_NAME).is_file():
        return as_checkpoint(folder)
    bundle = open_bundle(folder)
    if verify_files:
        verify(bundle)
        check_requirements(bundle)
    return bundle
