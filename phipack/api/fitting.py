"""Which recipe of a model fits on which device. Needs the base install; sizes of a checkpoint need `phipack[build]`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from phipack.api.arguments import AnyPath, as_checkpoint, as_path, as_target
from phipack.api.results import FitReport, SizedFit
from targets.architecture import Architecture
from targets.device_evidence import observation_of
from targets.devices import Target, load_targets
from targets.errors import RecipeError, UnsupportedModelError, did_you_mean
from targets.fit import DEFAULT_CONTEXT, RecipeFit, fit_all, refused
from targets.kv_cache import cache_types, with_kv_cache
from targets.measurement import Measurement
from targets.models import known_model
from targets.recipes import RECIPES, Recipe
from targets.roofline import decode_speed
from targets.stated_path import neighbour

if TYPE_CHECKING:
    from builders.checkpoint import Checkpoint


def list_targets() -> tuple[Target, ...]:
    """Return the targets that come with phipack."""
    return tuple(load_targets().values())


def list_recipes() -> tuple[Recipe, ...]:
    """Return the recipes: a format and how weights are stored in it."""
    return tuple(RECIPES.values())


def open_target(name_or_path: AnyPath) -> Target:
    """Look up a target by its name, or read a target file of your own. Raises `TargetError`."""
    return as_target(name_or_path)


def fit(
    model: AnyPath | Checkpoint,
    target: AnyPath | Target,
    *,
    measured: Iterable[Measurement | AnyPath] = (),
    kv_cache: str | None = None,
) -> FitReport:
    """Say which recipes of a model fit on a target, how long a context then fits, and how fast it is likely to be.

    Args:
        model: a released Phi-3 by its name (`phi-3-mini-4k-instruct`), or a checkpoint, whose bundles' sizes are then
            known to the byte.
        target: a device's name, or the path of a target file.
        measured: measurements, or files of them, that speeds are predicted from in addition to the published ones.
        kv_cache: the type of keys and values, such as `q8_0` or `int8`, of the recipes whose runtimes have it.

    Raises:
        RecipeError: there is no such type, or the model's heads can't be stored in it.
        UnsupportedModelError: no such model. CheckpointError, TargetError: one of the two can't be read.
        MeasurementError: nothing can be learned from a measurement.
    """
    checkpoint = _checkpoint(model)
    architecture = _known(str(model)) if checkpoint is None else checkpoint.architecture
    device = as_target(target)
    opened = (one if isinstance(one, Measurement) else Measurement.read(as_path(one)) for one in measured)
    known = [observation_of(one) for one in opened]
    recipes = _recipes(kv_cache)
    fits = fit_all(architecture, device, recipes)
    speeds = (
        decode_speed(architecture, recipe, device, known) if one.fits else None
        for recipe, one in zip(recipes, fits, strict=True)
    )
    sized = tuple(
        replace(_sized(checkpoint, recipe, one), speed=speed)
        for recipe, one, speed in zip(recipes, fits, speeds, strict=True)
    )
    return FitReport(str(model) if checkpoint is None else str(checkpoint.path), device, sized)


def _known(model: str) -> Architecture:
    """Look up a released model. Raises `UnsupportedModelError`, whose fix is the folder that may be meant."""
    try:
        return known_model(model)
    except UnsupportedModelError as error:
        near = neighbour(Path(model))
        if near is None or not Path(near).is_dir():
            raise
        raise UnsupportedModelError(error.problem, fix=f"did you mean the folder {near!r}?") from error


def _recipes(kv_cache: str | None) -> list[Recipe]:
    """Return all recipes, with a type of KV cache where they have it. Raises `RecipeError` where none does."""
    if kv_cache is None:
        return [*RECIPES.values()]
    types = {name for recipe in RECIPES.values() for name in cache_types(recipe)}
    if kv_cache not in types:
        raise RecipeError(f"unknown type of KV cache {kv_cache!r}", fix=did_you_mean(kv_cache, types))
    return [
        with_kv_cache(recipe, kv_cache) if kv_cache in cache_types(recipe) else recipe for recipe in RECIPES.values()
    ]


def _checkpoint(model: AnyPath | Checkpoint) -> Checkpoint | None:
    """Open what is a folder, or is meant to be one; None for a model's name."""
    if isinstance(model, str) and not Path(model).exists() and "/" not in model:
        return None
    return as_checkpoint(model)


def _sized(checkpoint: Checkpoint | None, recipe: Recipe, found: RecipeFit) -> SizedFit:
    """Add the bundle's size, where there is a checkpoint that fits and that the converter can build."""
    if checkpoint is None or not found.fits:
        return SizedFit(found, None)
    try:
        return SizedFit(found, _bundle_bytes(checkpoint, recipe, found.longest_context))
    except UnsupportedModelError as error:
        return SizedFit(refused(found.recipe, error), None)


def _bundle_bytes(checkpoint: Checkpoint, recipe: Recipe, longest_context: int) -> int:
    """Return the bytes of all files but the manifest, at the context that a build for the target would have."""
    from builders.conversion import BuildRequest
    from builders.sizes import bundle_sizes

    context_length = min(longest_context, DEFAULT_CONTEXT)
    return sum(bundle_sizes(BuildRequest.from_checkpoint(checkpoint, recipe, context_length)).values())
