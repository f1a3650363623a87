"""`build`, `convert`, `export`: from a checkpoint to a bundle, or to another folder of weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from phipack import completion
from phipack.options import (
    FILE,
    FOLDER,
    State,
    adapter_option,
    calibration_text_option,
    context_option,
    kv_cache_option,
    out_option,
    pass_state,
    profile_option,
    replace_option,
    target_option,
)
from targets.calibration import CALIBRATIONS, Calibration, CalibrationSettings
from targets.formatting import recipe_shown, size

if TYPE_CHECKING:
    from phipack.api.results import BuildOutcome
    from targets.architecture import Family
    from targets.budget import Budget


@click.command()
@click.argument("checkpoint", type=FOLDER)
@click.option(
    "--recipe",
    "recipes",
    required=True,
    multiple=True,
    metavar="RECIPE",
    shell_complete=completion.recipes,
    help="Format and storage, as in phipack recipes. Repeated: several bundles from one read, each in DIR/RECIPE.",
)
@adapter_option
@target_option
@context_option
@click.option(
    "--calibration",
    type=click.Choice(CALIBRATIONS),
    metavar="LEVEL",
    help="What is learned from a text before weights are quantized: none; light: which inputs are large; full: how all "
    "inputs go together. [default: the recipe's, as in phipack recipes]",
)
@calibration_text_option
@click.option(
    "--imatrix",
    type=FILE,
    metavar="FILE",
    help="With light calibration: an importance matrix of llama.cpp's llama-imatrix, in place of a text.",
)
@click.option(
    "--at-most",
    metavar="SIZE",
    help="Spend this many bytes on the bundle's files, such as 2.0GB: types of matrices by measured sensitivity. "
    "fit: the largest bundle that fits the target.",
)
@click.option(
    "--bits",
    type=float,
    metavar="BITS",
    help="Spend this many bits per weight, scales included, such as 4.2, in the same way.",
)
@kv_cache_option
@out_option
@replace_option
@profile_option
@pass_state
def build(
    state: State,
    checkpoint: Path,
    recipes: tuple[str, ...],
    adapter: Path | None,
    target: str | None,
    context_length: int | None,
    calibration: Calibration | None,
    calibration_text: Path | None,
    imatrix: Path | None,
    at_most: str | None,
    bits: float | None,
    kv_cache: str | None,
    out: Path,
    replace: bool,
) -> None:
    """Build bundles from a checkpoint.

    With a target, the bundle's context is the longest that fits there (at most 4,096 unless --context asks for more),
    and a model that does not fit is refused.

    Calibration runs the checkpoint over a text, once for all recipes, and makes 4-bit bundles of the same size answer
    more like it: docs/quantization.md says what it costs. With --at-most or --bits, the same text also shows which
    matrices need more bits than others.
    """
    from phipack.api.building import build_each, open_checkpoint
    from phipack.json_form.making import build_form

    if len(set(recipes)) < len(recipes):
        raise click.UsageError("a recipe is named twice")
    if calibration_text is not None and imatrix is not None:
        raise click.UsageError("--calibration-text and --imatrix exclude one another")
    if calibration == "none" and (calibration_text or imatrix):
        raise click.UsageError("--calibration-text and --imatrix need calibration, light or full")
    if calibration == "full" and imatrix is not None:
        raise click.UsageError("--imatrix has no more than light calibration needs: full needs a text")
    budget = _budget(at_most, bits, target)
    report = build_each(
        open_checkpoint(checkpoint, adapter=adapter),
        {recipe: out if len(recipes) == 1 else out / recipe for recipe in recipes},
        target=target,
        context_length=context_length,
        calibration=calibration,
        calibration_settings=CalibrationSettings(calibration_text, imatrix),
        budget=budget,
        kv_cache=kv_cache,
        home=state.home,
        replace=replace,
        on_progress=state.output.on_progress,
    )
    if report.bundles:
        lines = [line for one in report.outcomes for line in _outcome_lines(one)]
        state.output.result(build_form(report).data(), "\n".join(lines))
        for failed in report.outcomes:
            if failed.problem is not None:
                state.output.note(f"{failed.path}: FAILED: {failed.problem}")
    report.raise_for_failures()


def _budget(at_most: str | None, bits: float | None, target: str | None) -> Budget | None:
    from targets.budget import Budget
    from targets.budget_table import FIT

    if at_most is not None and bits is not None:
        raise click.UsageError("--at-most and --bits exclude one another")
    if at_most == FIT:
        if target is None:
            raise click.UsageError("--at-most fit needs --target")
        return Budget("fit")
    if at_most is not None:
        return Budget.of_size(at_most)
    return None if bits is None else Budget.of_bits(bits)


def _outcome_lines(outcome: BuildOutcome) -> list[str]:
    if outcome.bundle is None:
        return []
    manifest = outcome.bundle.manifest
    context = manifest.model.context_length
    calibration, budget = manifest.recipe.calibration, manifest.recipe.budget
    learned = "none" if calibration is None else calibration.level
    how = recipe_shown("", learned, None if budget is None else budget.asked, manifest.recipe.kv_cache)
    recipe = outcome.recipe + (f" ({how})" if how else "")
    lines = [f"{outcome.path}: {recipe}, {size(manifest.total_bytes)}, context {context}", manifest.digest]
    lines += [f"note: {note}" for note in manifest.recipe.notes]
    return lines


@click.command()
@click.argument("checkpoint", type=FOLDER)
@click.option(
    "--layout",
    required=True,
    type=click.Choice(["llama", "phi3"]),
    help="llama: for tools that know only Llama. phi3: the way back.",
)
@adapter_option
@out_option
@replace_option
@pass_state
def convert(state: State, checkpoint: Path, layout: Family, adapter: Path | None, out: Path, replace: bool) -> None:
    """Write a checkpoint in another family's layout: the same weights under Llama's names, or back under Phi-3's.

    For mini and medium with the short context. Llama has no sliding window: the note says up to where the two agree.
    With --adapter, the merged checkpoint is written, in the same layout too.
    """
    from phipack.api.building import convert_layout, open_checkpoint
    from phipack.json_form.making import convert_form

    opened = open_checkpoint(checkpoint, adapter=adapter)
    written = convert_layout(opened, layout, out, replace=replace, on_progress=state.output.on_progress)
    text = [f"{out}: {layout} layout of {checkpoint}", *(f"note: {note}" for note in written.notes)]
    state.output.result(convert_form(written).data(), "\n".join(text))


@click.command()
@click.argument("checkpoint", type=FOLDER)
@out_option
@replace_option
@pass_state
def export(state: State, checkpoint: Path, out: Path, replace: bool) -> None:
    """Export an architecture that phipack has no writer for, with optimum: a plain ONNX folder.

    It is no bundle: not quantized, not measured, not to be registered. It needs the whole model in memory. The graph's
    logits are compared with those of transformers' own model.

    The first export creates an environment for optimum and its transformers 4, of 70 MB, in PHIPACK_CACHE or
    ~/.cache/phipack. pip downloads it.
    """
    from phipack.api.building import export_onnx
    from phipack.json_form.making import export_form

    exported = export_onnx(checkpoint, out, replace=replace, on_progress=state.output.on_progress)
    state.output.result(export_form(exported).data(), f"{out}: {', '.join(exported.files)}")
