"""`targets`, `recipes`, `fit`: what there is, and what fits on what."""

from __future__ import annotations

from pathlib import Path

import click

from phipack import completion
from phipack.options import FILE, State, adapter_option, kv_cache_option, pass_state
from phipack.tables import table
from targets.formatting import rate, size
from targets.recipes import default_calibration


@click.group()
def targets() -> None:
    """Devices that bundles are built for."""


@targets.command("ls")
@pass_state
def targets_ls(state: State) -> None:
    """List the targets."""
    from phipack.api.fitting import list_targets
    from phipack.json_form.making import targets_form

    known = list_targets()
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
        targets_form(known).data(),
        table(("target", "SoC", "RAM", "for an app", "bandwidth", "formats"), rows),
    )


@targets.command("show")
@click.argument("name", metavar="TARGET", shell_complete=completion.targets)
@pass_state
def targets_show(state: State, name: str) -> None:
    """Show one target with the source of each figure."""
    from phipack.api.fitting import open_target

    target = open_target(name)
    state.output.result(target.model_dump(mode="json"), target.describe())


@click.command()
@pass_state
def recipes(state: State) -> None:
    """List the recipes: a format, how weights are stored in it, and how builds are calibrated by default."""
    from phipack.api.fitting import list_recipes
    from phipack.json_form.making import recipes_form

    known = list_recipes()
    rows = [(r.name, r.format, r.bits, r.summary, default_calibration(r)) for r in known]
    columns = ("recipe", "format", "bits", "weights", "calibration")
    state.output.result(recipes_form(known).data(), table(columns, rows))


@click.command()
@click.argument("model", metavar="MODEL-OR-CHECKPOINT", shell_complete=completion.known_models)
@click.option(
    "--target",
    required=True,
    metavar="TARGET",
    shell_complete=completion.targets,
    help="A device, or the path of a target file of your own.",
)
@click.option(
    "--measured",
    multiple=True,
    type=FILE,
    metavar="FILE",
    help="A measurement that speeds are predicted from, too (repeatable).",
)
@kv_cache_option
@adapter_option
@pass_state
def fit(
    state: State, model: str, target: str, measured: tuple[Path, ...], kv_cache: str | None, adapter: Path | None
) -> None:
    """Show which recipes of a model fit on a target, how long a context then fits, and the speed to expect.

    Speeds are predicted from published and measured ones: the range holds 80 % of the probability, and gates use its
    lower end.

    MODEL is a released model (phi-3-mini-4k-instruct, phi-3.5-mini-instruct, phi-4-mini-instruct, phi-4 …) or a
    checkpoint's folder, whose bundles' sizes are then known to the byte.
    """
    from phipack.api.building import open_checkpoint
    from phipack.api.fitting import fit as fit_on
    from phipack.json_form.making import fit_form
    from targets.fit import DEFAULT_CONTEXT

    opened = model if adapter is None else open_checkpoint(model, adapter=adapter)
    report = fit_on(opened, target, measured=measured, kv_cache=kv_cache)
    columns = (
        *("recipe", "bundle", "weights", "KV cache", "runtime", "longest context", "token/s", "fits"),
        "why not, or note",
    )
    rows = [
        (
            one.fit.recipe,
            None if one.bundle_bytes is None else f"{one.bundle_bytes:,} B",
            size(one.fit.weight_bytes),
            size(one.fit.kv_cache_bytes),
            size(one.fit.runtime_bytes),
            one.fit.longest_context,
            None if one.speed is None else f"{one.speed.low:.3g} to {one.speed.high:.3g}",
            "yes" if one.fit.fits else "no",
            one.fit.reason,
        )
        for one in report.recipes
    ]
    device = report.target
    head = (
        f"{model} on {device.title}: {size(device.app_memory_bytes)} for an app. The longest context is what fits, and "
        f"KV cache and runtime are shown for it; a bundle is built for at most {DEFAULT_CONTEXT:,} tokens unless "
        "context_length (--context) asks for more"
    )
    state.output.result(fit_form(report).data(), f"{head}\n\n{table(columns, rows)}")
