"""`build`, `convert`, `inspect`, `release`: from a checkpoint to registered cells."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from phipack.options import (
    FILE,
    FOLDER,
    State,
    context_option,
    out_option,
    pass_state,
    recipe_option,
    registry_options,
    replace_option,
    target_option,
)
from phipack.output import share, size, table
from targets.errors import ReleaseError

if TYPE_CHECKING:
    from builders.release import CellOutcome
    from targets.architecture import Family


@click.command()
@click.argument("checkpoint", type=FOLDER)
@recipe_option
@target_option
@context_option
@out_option
@replace_option
@pass_state
def build(
    state: State,
    checkpoint: Path,
    recipe: str,
    target: str | None,
    context_length: int | None,
    out: Path,
    replace: bool,
) -> None:
    """Build a bundle from a checkpoint.

    With a target, the bundle's context is the longest that fits there (at most 4,096 unless --context asks for more),
    and a model that does not fit is refused.
    """
    from builders.build import build as build_bundle
    from builders.checkpoint import open_checkpoint
    from targets.recipes import recipe_named

    asked = recipe_named(recipe)
    opened = open_checkpoint(checkpoint)
    if target is not None:
        from targets.devices import target_named
        from targets.fit import require_fit

        context_length = require_fit(opened.architecture, asked, target_named(target), context_length)
    bundle = build_bundle(
        opened, asked, out, context_length=context_length, progress=state.output.progress, replace=replace
    )
    manifest = bundle.manifest
    lines = [f"{out}: {recipe}, {size(manifest.total_bytes)}, context {manifest.model.context_length}", bundle.digest]
    lines += [f"note: {note}" for note in manifest.recipe.notes]
    state.output.result(
        {"path": str(out), "digest": bundle.digest, "bytes": manifest.total_bytes, "notes": manifest.recipe.notes},
        "\n".join(lines),
    )


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

    notes = relayout(open_checkpoint(checkpoint), layout, out, replace_existing=replace, progress=state.output.progress)
    text = [f"{out}: {layout} layout of {checkpoint}", *(f"note: {note}" for note in notes)]
    state.output.result({"path": str(out), "layout": layout, "notes": list(notes)}, "\n".join(text))


@click.command()
@click.argument("path", type=FOLDER)
@click.option("--verify", is_flag=True, help="Read every byte of a bundle and compare it with the manifest.")
@pass_state
def inspect(state: State, path: Path, verify: bool) -> None:
    """Show what a checkpoint or a bundle is."""
    from registry.bundle import MANIFEST_NAME

    if (path / MANIFEST_NAME).is_file():
        _inspect_bundle(state, path, verify)
    else:
        _inspect_checkpoint(state, path)


def _inspect_bundle(state: State, path: Path, verify: bool) -> None:
    from registry.bundle import open_bundle
    from registry.bundle import verify as verify_bundle

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
    state.output.result(facts, "\n".join(f"{name:<20}{value}" for name, value in shown.items()))


@click.command()
@click.argument("project", type=FILE, default="phipack.toml")
@click.option(
    "--only", multiple=True, metavar="CELL", help="This cell alone (repeatable), as a job of a CI matrix would."
)
@registry_options
@pass_state
def release(state: State, project: Path, only: tuple[str, ...], tracking_uri: str | None, store: Path | None) -> None:
    """Build, validate and register every cell of a project file.

    What is built already from the same inputs is not built again. A cell that fails fails the release, and loses
    nothing of the others.
    """
    from builders.checkpoint import open_checkpoint
    from builders.project import load_project
    from builders.release import Release
    from builders.workshop import Workshop
    from registry.ledger import open_ledger
    from registry.registration import Registration
    from registry.store import open_store

    plan = load_project(project)
    cells = plan.cells_named(only)
    blobs = open_store(store or plan.store)
    ledger = open_ledger(tracking_uri or plan.tracking_uri, blobs)
    checkpoint = open_checkpoint(plan.checkpoint)
    state.output.note(f"{plan.model} {plan.version}: {len(cells)} cells from {plan.checkpoint}")
    # All of the project's cells, whichever are built here: promotion waits for them.
    ledger.plan_release(plan.model, plan.version, [cell.name for cell in plan.cells])
    done = Release(
        checkpoint=checkpoint,
        settings=plan.settings,
        workshop=Workshop(),
        store=blobs,
        register=lambda cell, manifest, evidence: ledger.register(
            Registration(plan.model, plan.version, cell.name, manifest, evidence)
        ),
        progress=state.output.progress,
    )
    outcomes: list[CellOutcome] = []
    for outcome in done.run(cells):
        outcomes.append(outcome)
        state.output.note(_line(outcome))
    state.output.result([_outcome_data(o) for o in outcomes], _outcome_table(outcomes))
    if failed := [outcome.cell.name for outcome in outcomes if outcome.problem is not None]:
        raise ReleaseError(
            f"{plan.model} {plan.version}: {len(failed)} of {len(outcomes)} cells failed: {', '.join(failed)}",
            fix="mend these and run the same command again: the other cells are kept and not built again",
        )


def _line(outcome: CellOutcome) -> str:
    if outcome.problem is not None:
        return f"{outcome.cell.name}: FAILED: {outcome.problem}"
    how = "built" if outcome.built_anew else "built already"
    return f"{outcome.cell.name}: {outcome.cell.recipe.name} {how}, passed, registered"


def _outcome_table(outcomes: list[CellOutcome]) -> str:
    columns = ("cell", "recipe", "size", "KL", "same top", "ppl ratio", "tok/s here", "tok/s there", "gates")
    rows = []
    for outcome in outcomes:
        gates, figures = "refused", {}
        if outcome.evidence is not None:
            figures = {name: figure.value for name, figure in outcome.evidence.figures.items()}
            passed = sum(gate.passed for gate in outcome.evidence.gates)
            gates = f"{passed}/{len(outcome.evidence.gates)} passed"
        rows.append(
            (
                outcome.cell.name,
                outcome.cell.recipe.name,
                size(figures["artifact_bytes"]) if figures else None,
                figures.get("kl_mean"),
                share(figures["same_top_share"]) if figures else None,
                figures.get("perplexity_ratio"),
                figures.get("decode_tokens_per_second"),
                figures.get("predicted_decode_tokens_per_second"),
                gates,
            )
        )
    return table(columns, rows)


def _outcome_data(outcome: CellOutcome) -> dict[str, object]:
    return {
        "cell": outcome.cell.name,
        "recipe": outcome.cell.recipe.name,
        "target": outcome.cell.target.name,
        "digest": outcome.manifest.digest if outcome.manifest else None,
        "built_anew": outcome.built_anew,
        "measured_anew": outcome.measured_anew,
        "problem": None if outcome.problem is None else outcome.problem.problem,
        "evidence": outcome.evidence.model_dump(mode="json", by_alias=True) if outcome.evidence else None,
    }
