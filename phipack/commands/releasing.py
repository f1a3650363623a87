"""`release`: from a project file to registered cells."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from phipack.cluster_options import cluster_options
from phipack.commands.ci_reports import CiReports, ci_report_options
from phipack.commands.opening import open_project_registry
from phipack.options import FILE, State, checkpoint_digest_option, only_option, pass_state, profile_option
from phipack.tables import table
from targets.formatting import count, recipe_shown, share, size

if TYPE_CHECKING:
    from builders.matrix.cluster.address import ClusterAddress
    from phipack.api.job_results import JobsReport
    from phipack.api.results import CellReport, ReleaseReport


@click.command()
@click.argument("project_file", metavar="[PROJECT]", required=False, type=FILE)
@only_option
@click.option(
    "--dry-run", is_flag=True, help="Build and register nothing: show sizes, what is built already, predicted gates."
)
@click.option(
    "--defer-registration",
    is_flag=True,
    help="Build and validate, and register nothing: only the store is used. As a job of phipack matrix does.",
)
@click.option(
    "--job",
    "jobs",
    multiple=True,
    metavar="NAME",
    help="With --defer-registration: only this job (repeatable) and what it comes after (phipack plan).",
)
@click.option(
    "--finish",
    is_flag=True,
    help="Register what deferred jobs have built and validated: all cells if all pass, otherwise none.",
)
@checkpoint_digest_option
@cluster_options
@ci_report_options
@profile_option
@pass_state
def release(
    state: State,
    project_file: Path | None,
    only: tuple[str, ...],
    dry_run: bool,
    defer_registration: bool,
    jobs: tuple[str, ...],
    finish: bool,
    checkpoint_digest: str | None,
    cluster: ClusterAddress | None,
    junit: Path | None,
    metrics: Path | None,
    github: bool,
) -> None:
    """Build, validate and register every cell of a project file.

    What any machine has built from the same inputs is not built again: the store keeps records. A cell that fails makes
    the release fail; the other cells are done and kept.

    On several machines: --cluster; or phipack matrix, --defer-registration on each, then --finish. Both register all
    cells if all pass, otherwise none.
    """
    _check_usage(only, jobs, dry_run=dry_run, defer=defer_registration, finish=finish, digest=checkpoint_digest)
    if cluster is not None:
        _check_cluster_usage(only, jobs, defer=defer_registration, elsewhere=dry_run or finish)
    if defer_registration and (junit or metrics):
        raise click.UsageError("--junit and --metrics report cells: they go with --finish or --dry-run")
    with CiReports(state, "release", junit, metrics, github).open() as reports:
        state.named_project = project_file or state.named_project
        project = state.required_project
        registry = open_project_registry(state)
        if defer_registration:
            _show_jobs(state, registry.run_jobs(project, only, jobs=jobs, cluster=cluster))
        elif finish:
            _show(state, registry.finish(project, checkpoint_digest=checkpoint_digest), reports)
        else:
            _show(state, registry.release(project, only, dry_run=dry_run, cluster=cluster), reports)


def _check_usage(
    only: tuple[str, ...], jobs: tuple[str, ...], *, dry_run: bool, defer: bool, finish: bool, digest: str | None
) -> None:
    if dry_run + defer + finish > 1:
        raise click.UsageError("--dry-run, --defer-registration and --finish exclude one another")
    if jobs and not defer:
        raise click.UsageError("--job needs --defer-registration")
    if finish and only:
        raise click.UsageError("--finish registers all cells of the project file, or none: it takes no --only")
    if digest is not None and not finish:
        raise click.UsageError("--checkpoint-digest needs --finish: what builds reads the checkpoint itself")


def _check_cluster_usage(only: tuple[str, ...], jobs: tuple[str, ...], *, defer: bool, elsewhere: bool) -> None:
    if elsewhere:
        raise click.UsageError("--cluster does jobs: it goes with neither --dry-run nor --finish")
    if jobs:
        raise click.UsageError("--cluster does all jobs that are not recorded: it takes no --job")
    if only and not defer:
        raise click.UsageError(
            "--cluster registers all cells of the project file, or none: --only needs --defer-registration"
        )


def _show(state: State, report: ReleaseReport, reports: CiReports) -> None:
    from phipack.json_form.making import release_form

    why = failures_text(report) if report.dry_run else ""
    known = (_cost(report), types_text(report)) if report.dry_run else (_report_line(report),)
    state.output.result(release_form(report).data(), "\n\n".join(filter(None, (_table(report), *known, why))))
    reports.write(report)
    report.raise_for_failures()


def failures_text(report: ReleaseReport) -> str:
    """Say which cells would fail, why, and what to do: once at the end of the command where it is the same for all."""
    groups = report.failures_by_fix
    lines = []
    for fix, failures in groups:
        lines += [f"{failure.cell}: {failure.problem}" for failure in failures]
        lines += [f"  fix: {fix}"] if fix and len(groups) > 1 else []
    return "\n".join(lines)


def _report_line(report: ReleaseReport) -> str:
    """Return how a reviewer gets to see what was registered; empty where nothing was."""
    done = any(cell.registered for cell in report.cells)
    return f"for a reviewer: phipack report {report.model}:{report.version} -o report.html" if done else ""


def _show_jobs(state: State, report: JobsReport) -> None:
    from phipack.json_form.jobs import jobs_form

    form = jobs_form(report)
    rows = [(job.name, job.state, ", ".join(job.cells)) for job in form.jobs]
    text = table(("job", "state", "cells"), rows) if rows else "nothing to do: every job is recorded"
    state.output.result(form.data(), text)
    report.raise_for_failures()


def _table(report: ReleaseReport) -> str:
    columns = (
        "cell",
        "recipe",
        "build",
        "size",
        "KL",
        "same top",
        "ppl ratio",
        "tok/s here",
        "tok/s there (predicted)",
        "gates",
    )
    rows = []
    for cell in report.cells:
        figures = {name: figure.value for name, figure in cell.figures.items()}
        rows.append(
            (
                cell.cell,
                recipe_shown(cell.recipe, cell.calibration, cell.budget, cell.kv_cache),
                _build(cell, dry_run=report.dry_run),
                None if cell.size_bytes is None else size(cell.size_bytes),
                figures.get("kl_mean"),
                share(figures["same_top_share"]) if "same_top_share" in figures else None,
                figures.get("perplexity_ratio"),
                figures.get("decode_tokens_per_second"),
                figures.get("predicted_decode_tokens_per_second"),
                _gates(cell),
            )
        )
    return table(columns, rows)


def _cost(report: ReleaseReport) -> str:
    """Say what a run would have to do. Cells that share a bundle share what is measured."""
    bundles = {_bundle(cell): cell for cell in report.cells if cell.built}
    measured = {_bundle(cell) for cell in report.cells if cell.measured}
    built_bytes = sum(cell.size_bytes or 0 for cell in bundles.values())
    return (
        f"to build: {count(len(bundles), 'bundle')}, {size(built_bytes)}; to measure: {count(len(measured), 'bundle')}"
    )


def types_text(report: ReleaseReport) -> str:
    """Say which types budgets are spent on, where a target has no fast kernels for the others."""
    lines = [
        f"{cell.cell}: types are chosen among {', '.join(cell.candidates)}; llama.cpp has no fast kernels for "
        f"{', '.join(cell.slow_types)} on {cell.target}"
        for cell in report.cells
        if cell.candidates and cell.slow_types
    ]
    return "\n".join(lines)


def _bundle(cell: CellReport) -> tuple[object, ...]:
    """Return what is the same for cells that share a bundle."""
    return cell.recipe, cell.calibration, cell.budget, cell.kv_cache, cell.context_length


def _build(cell: CellReport, *, dry_run: bool) -> str | None:
    has_bundle = cell.digest is not None or any(figure.kind == "measured" for figure in cell.figures.values())
    if cell.size_bytes is None or (cell.problem is not None and not has_bundle and not cell.built):
        return None
    return ("to build" if dry_run else "built") if cell.built else "built before"


def _gates(cell: CellReport) -> str:
    if not cell.gates and cell.problem is not None:
        return "refused"
    passed = f"{sum(gate.passed for gate in cell.gates)}/{len(cell.gates)} passed"
    if cell.open_gates:
        return f"{passed}, {len(cell.open_gates)} to be measured"
    unbounded = cell.problem is not None and all(gate.passed for gate in cell.gates)
    return f"{passed}, refused" if unbounded else passed
