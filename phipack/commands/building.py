"""`build`, `convert`, `export`, `inspect`: checkpoints and bundles."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from phipack import completion
from phipack.formatting import share, size
from phipack.options import (
    FILE,
    FOLDER,
    State,
    adapter_option,
    calibration_text_option,
    context_option,
    out_option,
    pass_state,
    replace_option,
    target_option,
)
from phipack.tables import table
from targets.calibration import CALIBRATIONS, Calibration, CalibrationSettings

if TYPE_CHECKING:
    from builders.checkpoint import Checkpoint
    from phipack.api.results import BuildOutcome
    from registry.bundle.folder import Bundle
    from registry.bundle.manifest import CalibrationEntry
    from targets.architecture import Family


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
@out_option
@replace_option
@click.option("--profile", is_flag=True, help="Show where the time went: reading, transforming, quantizing, writing.")
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
    out: Path,
    replace: bool,
    profile: bool,
) -> None:
    """Build bundles from a checkpoint.

    With a target, the bundle's context is the longest that fits there (at most 4,096 unless --context asks for more),
    and a model that does not fit is refused.

    Calibration runs the checkpoint over a text, once for all recipes, and makes 4-bit bundles of the same size answer
    more like it: docs/quantization.md says what it costs.
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
    report = build_each(
        open_checkpoint(checkpoint, adapter=adapter),
        {recipe: out if len(recipes) == 1 else out / recipe for recipe in recipes},
        target=target,
        context_length=context_length,
        calibration=calibration,
        calibration_settings=CalibrationSettings(calibration_text, imatrix),
        home=state.home,
        replace=replace,
        on_progress=state.output.on_progress,
    )
    if report.bundles:
        lines = [line for one in report.outcomes for line in _outcome_lines(one, profile=profile)]
        lines += [f"{report.seconds:.1f} s in all"] if profile else []
        state.output.result(build_form(report).data(), "\n".join(lines))
        for failed in report.outcomes:
            if failed.problem is not None:
                state.output.note(f"{failed.path}: FAILED: {failed.problem}")
    report.raise_for_failures()


def _outcome_lines(outcome: BuildOutcome, *, profile: bool) -> list[str]:
    if outcome.bundle is None:
        return []
    manifest = outcome.bundle.manifest
    context = manifest.model.context_length
    recipe = outcome.recipe + ("" if manifest.recipe.calibration is None else f" ({manifest.recipe.calibration.level})")
    lines = [f"{outcome.path}: {recipe}, {size(manifest.total_bytes)}, context {context}", manifest.digest]
    lines += [f"note: {note}" for note in manifest.recipe.notes]
    return [*lines, _profile(outcome)] if profile else lines


def _profile(outcome: BuildOutcome) -> str:
    """Lay out busy seconds by phase, with the speed where a phase knows its bytes."""
    total = sum(phase.busy_seconds for phase in outcome.phases) or 1.0
    rows = []
    for phase in outcome.phases:
        spent = phase.busy_seconds
        speed = f"{phase.bytes / spent / 1e9:.2f} GB/s" if spent and phase.bytes else None
        rows.append((phase.name, f"{spent:.2f} s", share(spent / total), speed))
    return table(("phase", "busy time", "share", "speed"), rows)


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


@click.command()
@click.argument("path", type=FOLDER)
@click.option("--verify", is_flag=True, help="Read every byte of a bundle and compare it with the manifest.")
@adapter_option
@pass_state
def inspect(state: State, path: Path, verify: bool, adapter: Path | None) -> None:
    """Show what a checkpoint or a bundle is."""
    from phipack.api.building import inspect as inspect_folder
    from phipack.api.building import open_checkpoint
    from phipack.json_form.making import inspected_bundle_form, inspected_checkpoint_form
    from registry.bundle.folder import Bundle

    found = inspect_folder(path, verify_files=verify) if adapter is None else open_checkpoint(path, adapter=adapter)
    if isinstance(found, Bundle):
        state.output.result(inspected_bundle_form(found, verified=verify).data(), _bundle_text(found, verified=verify))
    else:
        state.output.result(inspected_checkpoint_form(found).data(), _checkpoint_text(found))


def _bundle_text(bundle: Bundle, *, verified: bool) -> str:
    manifest = bundle.manifest
    model, generation = manifest.model, manifest.generation
    facts = [
        ("bundle", bundle.digest + (" (verified)" if verified else "")),
        ("recipe", manifest.recipe.name),
        ("calibration", _calibration_text(manifest.recipe.calibration)),
        ("model", f"{model.architecture}, {model.parameters:,} parameters, {model.layers} layers"),
        ("context", f"{model.context_length} tokens, exact up to {model.exact_context_length}"),
        ("checkpoint", manifest.checkpoint),
        *(manifest.merged_from or ()),
        ("stop ids", ", ".join(map(str, generation.stop_token_ids)) or "-"),
        ("chat template", generation.chat_template or "-"),
        ("tools", ", ".join(f"{name} {version}" for name, version in manifest.tools.items())),
        *(("needs", need) for need in (manifest.requires.runtimes if manifest.requires else ())),
        *((("uses", ", ".join(manifest.requires.features)),) if manifest.requires else ()),
        *(("note", note) for note in manifest.recipe.notes),
    ]
    weights = table(
        ("storage", "tensors", "size"), [(w.storage, w.tensors, size(w.bytes)) for w in manifest.recipe.weights]
    )
    files = table(("file", "size", "SHA-256"), [(f.path, size(f.bytes), f.sha256[:16] + "…") for f in manifest.files])
    text = "\n".join(f"{name:<14}{value}" for name, value in facts)
    return f"{text}\n\n{weights}\n\n{files}\n\n{size(manifest.total_bytes)} in all"


def _calibration_text(entry: CalibrationEntry | None) -> str:
    if entry is None:
        return "none"
    read = f"{entry.tokens:,} tokens" if entry.tokens else "an importance matrix"
    return f"{entry.level}: {read}, {entry.text}"


def _checkpoint_text(checkpoint: Checkpoint) -> str:
    from dataclasses import asdict

    from builders.tokenizer import stop_token_ids

    architecture = checkpoint.architecture
    longrope = architecture.longrope
    facts = {
        "checkpoint": checkpoint.digest,
        **dict(checkpoint.merged_from or ()),
        **asdict(architecture),
        "parameters": architecture.parameter_count,
        "stop_token_ids": list(stop_token_ids(checkpoint)),
        "chat_template": checkpoint.chat_template is not None,
        "tokenizer_files": sorted(checkpoint.tokenizer_files),
        "shards": [file.name for file in checkpoint.shard_files],
    }
    del facts["longrope"]
    if longrope is not None:
        facts["longrope"] = f"beyond {longrope.original_context} tokens"
    return "\n".join(f"{name.replace('_', ' '):<22}{_shown(value)}" for name, value in facts.items())


def _shown(value: object) -> str:
    """Return a fact of a checkpoint for people: `-` for what the model does not have."""
    if value is None or value == ():
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
