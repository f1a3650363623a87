"""`targets`, `recipes`, `fit`: what there is, and what fits on what."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from phipack import completion
from phipack.formatting import rate, size
from phipack.options import State, pass_state
from phipack.output import table

if TYPE_CHECKING:
    from builders.checkpoint import Checkpoint
    from targets.fit import RecipeFit


@click.group()
def targets() -> None:
    """Devices that bundles are built for."""


@targets.command("ls")
@pass_state
def targets_ls(state: State) -> None:
    """List the targets."""
    from targets.devices import load_targets

    known = load_targets().values()
    rows = [
        (
            t.name,
            t.soc,
            size(t.ram.value),
            size(t.app_memory_bytes),
            rate(t.memory_bandwidth.value),
            ", ".join(t.formats),
        )
        for t in known
    ]
    state.output.result(
        [t.model_dump(mode="json") for t in known],
        table(("target", "SoC", "RAM", "for an app", "bandwidth", "formats"), rows),
    )


@targets.command("show")
@click.argument("name", metavar="TARGET", shell_complete=completion.targets)
@pass_state
def targets_show(state: State, name: str) -> None:
    """Show one target with the source of each figure."""
    from targets.devices import target_named

    target = target_named(name)
    state.output.result(target.model_dump(mode="json"), target.describe())


@click.command()
@pass_state
def recipes(state: State) -> None:
    """List the recipes: a format and how weights are stored in it."""
    from targets.recipes import RECIPES

    rows = [(r.name, r.format, r.bits, r.summary) for r in RECIPES.values()]
    state.output.result(
        [{"name": r.name, "format": r.format, "bits": r.bits, "summary": r.summary} for r in RECIPES.values()],
        table(("recipe", "format", "bits", "weights"), rows),
    )


@click.command()
@click.argument("model", metavar="MODEL-OR-CHECKPOINT", shell_complete=completion.known_models)
@click.option(
    "--target",
    required=True,
    metavar="TARGET",
    shell_complete=completion.targets,
    help="A device, or the path of a target file of your own.",
)
@pass_state
def fit(state: State, model: str, target: str) -> None:
    """Say which recipes of a model fit on a target, and how long a context then fits.

    MODEL is a released Phi-3 (phi-3-mini-4k-instruct …) or a checkpoint's folder, whose bundles' sizes are then told
    to the byte.
    """
    from targets.devices import target_named
    from targets.fit import fit_all
    from targets.models import known_model

    checkpoint = _checkpoint(model)
    architecture = known_model(model) if checkpoint is None else checkpoint.architecture
    device = target_named(target)
    sized = [_sized(checkpoint, found) for found in fit_all(architecture, device)]
    columns = ("recipe", "bundle", "weights", "KV cache", "runtime", "longest context", "fits", "why not, or note")
    rows = [
        (
            f.recipe,
            None if bundle_bytes is None else f"{bundle_bytes:,}",
            size(f.weight_bytes),
            size(f.kv_cache_bytes),
            size(f.runtime_bytes),
            f.longest_context,
            "yes" if f.fits else "no",
            f.reason,
        )
        for f, bundle_bytes in sized
    ]
    head = f"{model} on {device.title}: {size(device.app_memory_bytes)} for an app; KV cache at the longest context"
    data = [f.as_json() | {"bundle_bytes": bundle_bytes} for f, bundle_bytes in sized]
    state.output.result(data, f"{head}\n\n{table(columns, rows)}")


def _checkpoint(model: str) -> Checkpoint | None:
    """Open what is a folder, or meant to be one; None for a model's name."""
    if not Path(model).exists() and "/" not in model:
        return None
    from builders.checkpoint import open_checkpoint

    return open_checkpoint(Path(model))


def _sized(checkpoint: Checkpoint | None, found: RecipeFit) -> tuple[RecipeFit, int | None]:
    """Give a fit with its bundle's bytes, where there is a checkpoint that fits and that the converter takes."""
    from targets.errors import UnsupportedModelError
    from targets.fit import refused

    if checkpoint is None or not found.fits:
        return found, None
    try:
        return found, _bundle_bytes(checkpoint, found)
    except UnsupportedModelError as error:
        return refused(found.recipe, error), None


def _bundle_bytes(checkpoint: Checkpoint, fits: RecipeFit) -> int:
    """Bytes of all files but the manifest, at the context that a build for the target would have."""
    from builders.conversion import BuildRequest
    from builders.sizes import bundle_sizes
    from targets.fit import DEFAULT_CONTEXT
    from targets.recipes import recipe_named

    context_length = min(fits.longest_context, DEFAULT_CONTEXT)
    return sum(
        bundle_sizes(BuildRequest.from_checkpoint(checkpoint, recipe_named(fits.recipe), context_length)).values()
    )
