"""`inspect`: what a checkpoint or a bundle is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from phipack.options import FILE, FOLDER, State, adapter_option, pass_state
from phipack.tables import table
from targets.formatting import budget_shown, size

if TYPE_CHECKING:
    from builders.checkpoint import Checkpoint
    from registry.bundle.folder import Bundle
    from registry.bundle.manifest import CalibrationEntry, Manifest


@click.command()
@click.argument("path", type=FOLDER)
@click.option("--verify", is_flag=True, help="Read every byte of a bundle and compare it with the manifest.")
@click.option(
    "--plot",
    type=FILE,
    metavar="FILE",
    help="Draw the sensitivity and the type of each matrix of a bundle with a budget: .svg or .png.",
)
@adapter_option
@pass_state
def inspect(state: State, path: Path, verify: bool, plot: Path | None, adapter: Path | None) -> None:
    """Show what a checkpoint or a bundle is; of a bundle with a budget, how it was spent."""
    from phipack.api.building import inspect as inspect_folder
    from phipack.api.building import open_checkpoint
    from phipack.api.plotting import plot_sensitivities
    from phipack.json_form.making import inspected_bundle_form, inspected_checkpoint_form
    from registry.bundle.folder import Bundle

    found = inspect_folder(path, verify_files=verify) if adapter is None else open_checkpoint(path, adapter=adapter)
    if not isinstance(found, Bundle) and (verify or plot is not None):
        unread = "--verify reads" if verify else "--plot draws"
        raise click.UsageError(f"{unread} a bundle, and {path} is a checkpoint")
    if isinstance(found, Bundle) and plot is not None:
        plot_sensitivities(found, plot)
    if isinstance(found, Bundle):
        state.output.result(inspected_bundle_form(found, verified=verify).data(), _bundle_text(found, verified=verify))
    else:
        state.output.result(inspected_checkpoint_form(found).data(), _checkpoint_text(found))


def _cache_facts(manifest: Manifest) -> Iterator[tuple[str, str]]:
    recipe = manifest.recipe
    if recipe.kv_cache:
        how = ", with flash attention" if recipe.format == "gguf" else ", as its graph has it"
        yield "KV cache", recipe.kv_cache + how


def _bundle_text(bundle: Bundle, *, verified: bool) -> str:
    manifest = bundle.manifest
    model, generation = manifest.model, manifest.generation
    facts = [
        ("bundle", bundle.digest + (" (verified)" if verified else "")),
        ("recipe", manifest.recipe.name),
        ("calibration", _calibration_text(manifest.recipe.calibration)),
        *_budget_facts(manifest),
        *_cache_facts(manifest),
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
    total = f"{size(manifest.total_bytes)} in all"
    return "\n\n".join(filter(None, (text, weights, _sensitive_matrices(manifest), files, total)))


def _budget_facts(manifest: Manifest) -> list[tuple[str, str]]:
    """Return what was asked for, and what it came to."""
    from phipack.json_form.budget import budget_form

    if (found := budget_form(manifest)) is None:
        return []
    sizes = f"predicted {found.predicted_bytes:,} B, has {found.actual_bytes:,} B"
    return [("budget", f"{budget_shown(found.asked)}: {sizes}; {found.bits_per_weight:.3g} bits per weight")]


def _sensitive_matrices(manifest: Manifest) -> str:
    """Lay out the matrices that needed most bits; empty for a bundle without a budget."""
    from phipack.json_form.budget import budget_form

    if (found := budget_form(manifest)) is None:
        return ""
    rows = [(one.name, one.sensitivity, one.storage, one.cost) for one in found.most_sensitive]
    shown = table(("most sensitive matrix", "in 4 bits, nats", "type", "cost, nats"), rows)
    return f"{shown}\n\nestimated cost of all {sum(found.types.values())} matrices: {found.cost:.4g} nats"


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
