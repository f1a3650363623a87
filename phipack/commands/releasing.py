"""`release`: from a project file to registered cells."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from phipack import completion
from phipack.commands.opening import open_project_registry
from phipack.options import FILE, State, pass_state
from phipack.output import share, size, table

if TYPE_CHECKING:
    from phipack.api.results import ReleaseReport


@click.command()
@click.argument("project_file", metavar="[PROJECT]", required=False, type=FILE)
@click.option(
    "--only",
    multiple=True,
    metavar="CELL",
    shell_complete=completion.project_cells,
    help="Only this cell (repeatable), as a job of a CI matrix would.",
)
@click.option(
    "--dry-run", is_flag=True, help="Build and register nothing: show sizes, what is built already, predicted gates."
)
@pass_state
def release(state: State, project_file: Path | None, only: tuple[str, ...], dry_run: bool) -> None:
    """Build, validate and register every cell of a project file.

    What was built from the same inputs is not built again. A cell that fails makes the release fail; the other cells
    are done and kept.
    """
    from phipack.json_form.making import release_form

    state.named_project = project_file or state.named_project
    plan = state.required_project
    report = open_project_registry(state).release(plan, only, dry_run=dry_run)
    state.output.result(release_form(report).data(), _table(report))
    report.raise_for_failures()


def _table(report: ReleaseReport) -> str:
    columns = ("cell", "recipe", "size", "KL", "same top", "ppl ratio", "tok/s here", "tok/s there", "gates")
    rows = []
    for cell in report.cells:
        gates, figures = "refused", {}
        if cell.evidence is not None:
            figures = {name: figure.value for name, figure in cell.evidence.figures.items()}
            passed = sum(gate.passed for gate in cell.evidence.gates)
            gates = f"{passed}/{len(cell.evidence.gates)} passed"
        rows.append(
            (
                cell.cell,
                cell.recipe.name,
                None if cell.size_bytes is None else size(cell.size_bytes),
                figures.get("kl_mean"),
                share(figures["same_top_share"]) if "same_top_share" in figures else None,
                figures.get("perplexity_ratio"),
                figures.get("decode_tokens_per_second"),
                figures.get("predicted_decode_tokens_per_second"),
                gates,
            )
        )
    return table(columns, rows)
