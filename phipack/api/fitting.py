"""Which recipe of a model fits on which device. Needs the base install; sizes of a checkpoint need `phipack[build]`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from phipack.api.arguments import AnyPath, as_checkpoint, as_path, as_target
from phipack.api.results import FitReport, SizedFit
from targets.architecture import Architecture
from targets.device_evidence import observation_of
from targets.devices import Target, load_targets
from targets.errors import UnsupportedModelError
from targets.fit import DEFAULT_CONTEXT, RecipeFit, fit_all, refused
from targets.measurement import Measurement
from targets.models import known_model
from targets.recipes import RECIPES, Recipe, recipe_named
from targets.roofline import PredictedSpeed, decode_speed
from targets.speeds import Observation

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
    model: AnyPath | Checkpoint, target: AnyPath | Target, *, measured: Iterable[Measurement | AnyPath] = ()
) -> FitReport:
    """Say which recipes of a model fit on a target, how long a context then fits, and how fast it is likely to be.

    Args:
        model: a released Phi-3 by its name (`phi-3-mini-4k-instruct`), or a checkpoint, whose bundles' sizes are then
            known to the byte.
        target: a device's name, or the path of a target file.
        measured: measurements, or files of them, that speeds are predicted from in addition to the published ones.

    Raises:
        UnsupportedModelError: no such model. CheckpointError, TargetError: one of the two can't be read.
        MeasurementError: nothing can be learned from a measurement.
    """
    checkpoint = _checkpoint(model)
    architecture = known_model(str(model)) if checkpoint is None else checkpoint.architecture
    device = as_target(target)
    opened = (one if isinstance(one, Measurement) else Measurement.read(as_path(one)) for one in measured)
    known = [observation_of(one) for one in opened]
    sized = tuple(
        replace(_sized(checkpoint, found), speed=_speed(architecture, device, found, known))
        for found in fit_all(architecture, device)
    )
    return FitReport(str(model) if checkpoint is None else str(checkpoint.path), device, sized)


def _speed(
    architecture: Architecture, device: Target, found: RecipeFit, known: Sequence[Observation]
) -> PredictedSpeed | None:
    return decode_speed(architecture, recipe_named(found.recipe), device, known) if found.fits else None


def _checkpoint(model: AnyPath | Checkpoint) -> Checkpoint | None:
    """Open what is a folder, or is meant to be one; None for a model's name."""
    if isinstance(model, str) and not Path(model).exists() and "/" not in model:
        return None
    return as_checkpoint(model)


def _sized(checkpoint: Checkpoint | None, found: RecipeFit) -> SizedFit:
    """Add the bundle's size, where there is a checkpoint that fits and that the converter can build."""
    if checkpoint is None or not found.fits:
        return SizedFit(found, None)
    try:
        return SizedFit(found, _bundle_bytes(checkpoint, found))
    except UnsupportedModelError as error:
        return SizedFit(refused(found.recipe, error), None)


def _bundle_bytes(checkpoint: Checkpoint, fits: RecipeFit) -> int:
    """Return the bytes of all files but the manifest, at the context that a build for the target would have."""
    from builders.conversion import BuildRequest
    from builders.sizes import bundle_sizes

    context_length = min(fits.longest_context, DEFAULT_CONTEXT)
    return sum(
        bundle_sizes(BuildRequest.from_checkpoint(checkpoint, recipe_named(fits.recipe), context_length)).values()
    )
