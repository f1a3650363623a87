"""`build`, `convert`, `export`, `inspect`: checkpoints and bundles."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from phipack import completion
from phipack.options import (
    FOLDER,
    State,
    context_option,
    out_option,
    pass_state,
    replace_option,
    target_option,
)
from phipack.output import share, size, table

if TYPE_CHECKING:
    from builders.conversion import BuildRequest
    from registry.bundle.folder import Bundle
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
@target_option
@context_option
@out_option
@replace_option
@click.option(
    "--profile", is_flag=True, help="Say what the time went into: reading, transforming, quantizing, writing."
)
@pass_state
def build(
    state: State,
    checkpoint: Path,
    recipes: tuple[str, ...],
    target: str | None,
    context_length: int | None,
    out: Path,
    replace: bool,
    profile: bool,
) -> None:
    """Build bundles from a checkpoint.

    With a target, the bundle's context is the longest that fits there (at most 4,096 unless --context asks for more),
    and a model that does not fit is refused.
    """
    from builders.build import build_each
    from builders.checkpoint import open_checkpoint
    from builders.conversion import BuildRequest, default_context_length
    from targets.devices import target_named
    from targets.fit import require_fit
    from targets.recipes import recipe_named

    if len(set(recipes)) < len(recipes):
        raise click.UsageError("a recipe is named twice")
    opened = open_checkpoint(checkpoint)
    device = None if target is None else target_named(target)
    requests = {}
    for recipe in map(recipe_named, recipes):
        context = context_length or default_context_length(opened)
        if device is not None:
            context = require_fit(opened.architecture, recipe, device, context_length)
        place = out if len(recipes) == 1 else out / recipe.name
        requests[place] = BuildRequest.from_checkpoint(opened, recipe, context, state.output.on_progress)
    started = time.perf_counter()
    bundles: dict[Path, Bundle] = {}
    problems = build_each(requests, replace=replace, done=bundles.__setitem__)
    seconds = time.perf_counter() - started
    if not bundles:
        raise next(iter(problems.values()))
    asked = [(bundles[place], requests[place] if profile else None) for place in requests if place in bundles]
    data = [_bundle_data(bundle, profiled) for bundle, profiled in asked]
    lines = [line for bundle, profiled in asked for line in _bundle_lines(bundle, profiled)]
    if profile:
        lines.append(f"{seconds:.1f} s in all")
    state.output.result(data[0] if len(requests) == 1 else data, "\n".join(lines))
    for place, problem in problems.items():
        state.output.note(f"{place}: FAILED: {problem}")
    if problems:
        raise next(iter(problems.values()))


def _bundle_data(bundle: Bundle, profiled: BuildRequest | None) -> dict[str, object]:
    manifest = bundle.manifest
    facts: dict[str, object] = {
        "path": str(bundle.path),
        "digest": bundle.digest,
        "bytes": manifest.total_bytes,
        "notes": manifest.recipe.notes,
    }
    return facts if profiled is None else facts | {"busy_seconds": profiled.phases.seconds}


def _bundle_lines(bundle: Bundle, profiled: BuildRequest | None) -> list[str]:
    manifest = bundle.manifest
    context = manifest.model.context_length
    lines = [f"{bundle.path}: {manifest.recipe.name}, {size(manifest.total_bytes)}, context {context}", bundle.digest]
    lines += [f"note: {note}" for note in manifest.recipe.notes]
    if profiled is not None:
        lines.append(_profile(profiled))
    return lines


def _profile(request: BuildRequest) -> str:
    """Lay out busy seconds by phase, with the speed where a phase knows its bytes."""
    seconds, byte_counts = request.phases.seconds, request.phases.bytes
    total = sum(seconds.values()) or 1.0
    rows = []
    for name, spent in seconds.items():
        speed = f"{byte_counts[name] / spent / 1e9:.2f} GB/s" if spent and byte_counts[name] else None
        rows.append((name, f"{spent:.2f}", share(spent / total), speed))
    return table(("phase", "busy seconds", "share", "speed"), rows)


@click.command()
@click.argument("checkpoint", type=FOLDER)
@click.option(
    "--layout",
    required=True,
    type=click.Choice(["llama", "phi3"]),
    help="llama: for tools that know only Llama. phi3: the way back.",
)
@out_option
@replace_option
@pass_state
def convert(state: State, checkpoint: Path, layout: Family, out: Path, replace: bool) -> None:
    """Write a checkpoint in another family's layout: the same weights under Llama's names, or back under Phi-3's.

    For mini and medium with the short context. Llama has no sliding window: the note says up to where the two agree.
    """
    from builders.checkpoint import open_checkpoint
    from builders.relayout import relayout

    notes = relayout(
        open_checkpoint(checkpoint), layout, out, replace_existing=replace, on_progress=state.output.on_progress
    )
    text = [f"{out}: {layout} layout of {checkpoint}", *(f"note: {note}" for note in notes)]
    state.output.result({"path": str(out), "layout": layout, "notes": list(notes)}, "\n".join(text))


@click.command()
@click.argument("checkpoint", type=FOLDER)
@out_option
@replace_option
@pass_state
def export(state: State, checkpoint: Path, out: Path, replace: bool) -> None:
    """Export an architecture that phipack has no writer for, with optimum: a plain ONNX folder.

    It is no bundle: not quantized, not measured, not to be registered. It needs the whole model in memory.
    """
    from builders.optimum_export import export as export_onnx

    files = export_onnx(checkpoint, out, replace=replace)
    state.output.result({"path": str(out), "files": files}, f"{out}: {', '.join(files)}")


@click.command()
@click.argument("path", type=FOLDER)
@click.option("--verify", is_flag=True, help="Read every byte of a bundle and compare it with the manifest.")
@pass_state
def inspect(state: State, path: Path, verify: bool) -> None:
    """Show what a checkpoint or a bundle is."""
    from registry.bundle.manifest import MANIFEST_NAME

    if (path / MANIFEST_NAME).is_file():
        _inspect_bundle(state, path, verify)
    else:
        _inspect_checkpoint(state, path)


def _inspect_bundle(state: State, path: Path, verify: bool) -> None:
    from registry.bundle.folder import open_bundle
    from registry.bundle.folder import verify as verify_bundle

    bundle = open_bundle(path)
    if verify:
        verify_bundle(bundle)
    manifest = bundle.manifest
    model, generation = manifest.model, manifest.generation
    facts = [
        ("bundle", bundle.digest + (" (verified)" if verify else "")),
        ("recipe", manifest.recipe.name),
        ("model", f"{model.architecture}, {model.parameters:,} parameters, {model.layers} layers"),
        ("context", f"{model.context_length} tokens, exact up to {model.exact_context_length}"),
        ("checkpoint", manifest.checkpoint),
        ("stop ids", ", ".join(map(str, generation.stop_token_ids)) or "-"),
        ("chat template", generation.chat_template or "-"),
        ("tools", ", ".join(f"{name} {version}" for name, version in manifest.tools.items())),
        *(("note", note) for note in manifest.recipe.notes),
    ]
    weights = table(
        ("storage", "tensors", "bytes"), [(w.storage, w.tensors, size(w.bytes)) for w in manifest.recipe.weights]
    )
    files = table(("file", "bytes", "SHA-256"), [(f.path, f.bytes, f.sha256[:16] + "…") for f in manifest.files])
    text = "\n".join(f"{name:<14}{value}" for name, value in facts)
    data = manifest.model_dump(mode="json", by_alias=True) | {
        "digest": bundle.digest,
        "total_bytes": manifest.total_bytes,
    }
    state.output.result(data, f"{text}\n\n{weights}\n\n{files}\n\n{size(manifest.total_bytes)} in all")


def _inspect_checkpoint(state: State, path: Path) -> None:
    from dataclasses import asdict

    from builders.checkpoint import open_checkpoint

    checkpoint = open_checkpoint(path)
    architecture = checkpoint.architecture
    facts = {
        "checkpoint": checkpoint.digest,
        **asdict(architecture),
        "parameters": architecture.parameter_count,
        "stop_token_ids": list(checkpoint.stop_token_ids),
        "chat_template": checkpoint.chat_template is not None,
        "tokenizer_files": sorted(checkpoint.tokenizer_files),
        "shards": [file.name for file in checkpoint.shard_files],
    }
    shown = {name: value for name, value in facts.items() if name != "longrope"}
    if architecture.longrope is not None:
        shown["longrope"] = f"beyond {architecture.longrope.original_context} tokens"
    state.output.result(facts, "\n".join(f"{name:<22}{value}" for name, value in shown.items()))
