"""`release`: from a project file to registered cells."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from phipack import completion
from phipack.options import FILE, State, pass_state
from phipack.output import share, size, table
from targets.errors import Failure, GateError, PhipackError, ReleaseError

if TYPE_CHECKING:
    from builders.release import CellOutcome


@click.command()
@click.argument("project_file", metavar="[PROJECT]", required=False, type=FILE)
@click.option(
    "--only",
    multiple=True,
    metavar="CELL",
    shell_complete=completion.project_cells,
    help="This cell alone (repeatable), as a job of a CI matrix would.",
)
@pass_state
def release(state: State, project_file: Path | None, only: tuple[str, ...]) -> None:
    """Build, validate and register every cell of a project file.

    What is built already from the same inputs is not built again. A cell that fails fails the release, and loses
    nothing of the others.
    """
    from builders.build_cache import BuildCache
    from builders.checkpoint import open_checkpoint
    from builders.release import Release
    from registry.ledger.ledger import open_ledger
    from registry.ledger.registration import Registration
    from registry.store.uris import open_store

    state.named_project = project_file or state.named_project
    plan = state.required_project
    cells = plan.cells_named(only)
    blobs = open_store(state.store)
    ledger = open_ledger(state.tracking_uri, blobs, on_progress=state.output.on_progress)
    checkpoint = open_checkpoint(plan.checkpoint)
    state.output.note(f"{plan.model} {plan.version}: {len(cells)} cells from {plan.checkpoint}")
    # All of the project's cells, whichever are built here: promotion waits for them.
    ledger.plan_release(plan.model, plan.version, [cell.name for cell in plan.cells])
    done = Release(
        checkpoint=checkpoint,
        settings=plan.settings,
        cache=BuildCache(state.home),
        store=blobs,
        register=lambda cell, manifest, evidence: ledger.register(
            Registration(plan.model, plan.version, cell.name, manifest, evidence)
        ),
        on_progress=state.output.on_progress,
    )
    outcomes: list[CellOutcome] = []
    for outcome in done.run(cells):
        outcomes.append(outcome)
        state.output.note(_line(outcome))
    state.output.result([_outcome_data(o) for o in outcomes], _outcome_table(outcomes))
    if failed := [outcome for outcome in outcomes if outcome.problem is not None]:
        raise _failure(f"{plan.model} {plan.version}", failed, len(outcomes))


def _failure(release: str, failed: list[CellOutcome], count: int) -> PhipackError:
    """A gate error where gates alone are the reason: a CI job is to tell it from a broken machine."""
    problem = f"{release}: {len(failed)} of {count} cells failed: {', '.join(one.cell for one in failed)}"
    fix = "fix these and run the same command again: the other cells are kept and not built again"
    if all(isinstance(one.problem, GateError) for one in failed):
        failures = [Failure(one.cell, one.problem.problem) for one in failed if one.problem is not None]
        return GateError(problem, failures=failures, fix=fix)
    return ReleaseError(problem, fix=fix)


def _line(outcome: CellOutcome) -> str:
    if outcome.problem is not None:
        return f"{outcome.cell}: FAILED: {outcome.problem}"
    how = "built" if outcome.built else "built already"
    return f"{outcome.cell}: {outcome.recipe} {how}, passed, registered"


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
                outcome.cell,
                outcome.recipe,
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
        "cell": outcome.cell,
        "recipe": outcome.recipe,
        "target": outcome.target,
        "digest": outcome.manifest.digest if outcome.manifest else None,
        "built": outcome.built,
        "measured": outcome.measured,
        "problem": None if outcome.problem is None else outcome.problem.problem,
        "evidence": outcome.evidence.model_dump(mode="json", by_alias=True) if outcome.evidence else None,
    }
