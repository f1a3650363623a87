"""`plan` and `matrix`: a release as jobs, for one machine or many."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from phipack.commands.ci_reports import append_for_runner
from phipack.commands.opening import open_project_registry
from phipack.commands.releasing import failures_text, types_text
from phipack.options import FILE, State, checkpoint_digest_option, only_option, pass_state
from phipack.tables import table
from targets.formatting import count, size
from targets.progress import Notice

if TYPE_CHECKING:
    from phipack.api.job_results import JobPlan


@click.command()
@click.argument("project_file", metavar="[PROJECT]", required=False, type=FILE)
@only_option
@checkpoint_digest_option
@pass_state
def plan(state: State, project_file: Path | None, only: tuple[str, ...], checkpoint_digest: str | None) -> None:
    """Show the jobs of a release: what is recorded, what would run, where, and what it needs.

    Nothing is built, and MLflow is not asked. Minutes, memory and disk are estimates, for 2 cores until jobs have
    recorded what they took. Fails as release --dry-run does, which shows each cell's figures and gates.
    """
    from phipack.json_form.jobs import plan_form

    state.named_project = project_file or state.named_project
    project = state.required_project
    found = open_project_registry(state).plan(project, only, checkpoint_digest=checkpoint_digest)
    text = "\n\n".join(filter(None, (_shown(found), failures_text(found.release))))
    state.output.result(plan_form(found).data(), text)
    found.raise_for_failures()


@click.command()
@click.argument("project_file", metavar="[PROJECT]", required=False, type=FILE)
@click.option(
    "--format",
    "format_",
    type=click.Choice(("github", "gitlab", "json")),
    required=True,
    help="github: one line for fromJSON; gitlab: a child pipeline; json: all that is known of each group.",
)
@only_option
@click.option(
    "--shards",
    type=click.IntRange(min=1),
    metavar="N",
    help="At most so many machines of each kind. [default: one for every three bundles]",
)
@click.option(
    "--max-jobs",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    metavar="N",
    help="The most jobs in all; GitHub's limit is the default.",
)
@click.option(
    "--template",
    metavar="FILE",
    help="gitlab: a file of the repository with a job .phipack, which all jobs extend.",
)
@click.option(
    "--github",
    is_flag=True,
    help="github: write the matrix and the checkpoint's digest as the step's outputs, and the jobs as its summary.",
)
@click.option(
    "--dotenv",
    type=FILE,
    metavar="FILE",
    help="Write the checkpoint's digest here, as CHECKPOINT=DIGEST: GitLab's reports:dotenv hands it to later jobs.",
)
@click.option("--plan", "with_plan", is_flag=True, help="Show the jobs as phipack plan does, on standard error.")
@checkpoint_digest_option
@pass_state
def matrix(
    state: State,
    project_file: Path | None,
    format_: str,
    only: tuple[str, ...],
    shards: int | None,
    max_jobs: int,
    template: str | None,
    github: bool,
    dotenv: Path | None,
    with_plan: bool,
    checkpoint_digest: str | None,
) -> None:
    """Print the jobs that would run as a CI matrix.

    Each of its jobs runs phipack release --defer-registration --job NAME … with the names printed here, on a machine
    with its labels; phipack release --finish then registers. What shares a read of the checkpoint is in one job.
    """
    from phipack.ci.github import code_summary
    from phipack.ci.gitlab_template import check_template
    from phipack.ci.matrix_formats import github_matrix, gitlab_pipeline, plain_json
    from phipack.json_form.jobs import matrix_form
    from registry.files.output_file import check_output_file, write_output_file

    if template is not None and format_ != "gitlab":
        raise click.UsageError("--template is for --format gitlab")
    if github and format_ != "github":
        raise click.UsageError("--github is for --format github")
    if github and not os.environ.get("GITHUB_OUTPUT"):
        raise click.UsageError("--github needs GITHUB_OUTPUT, which GitHub's runner sets")
    if dotenv is not None:
        check_output_file(dotenv)
        dotenv.unlink(missing_ok=True)  # no digest of an earlier run stays where this one fails
    if template is not None:
        check_template(template)
    state.named_project = project_file or state.named_project
    project = state.required_project
    found = open_project_registry(state).matrix(
        project, only, shards=shards, max_jobs=max_jobs, checkpoint_digest=checkpoint_digest
    )
    form = matrix_form(found)
    if with_plan:
        state.output.note(_shown(found.plan))
    found.plan.raise_for_failures()  # a matrix that can't be finished is none
    state.output.on_progress(Notice(_done_and_to_do(found.plan) + f", on {count(len(found.groups), 'machine')}"))
    if format_ == "gitlab":
        text = gitlab_pipeline(form, template)
    else:
        text = github_matrix(form) if format_ == "github" else plain_json(form)
    if github:
        append_for_runner("GITHUB_OUTPUT", f"matrix={text}\ncheckpoint={form.checkpoint}\n")
        append_for_runner("GITHUB_STEP_SUMMARY", code_summary(_shown(found.plan)))
    if dotenv is not None:
        write_output_file(dotenv, f"CHECKPOINT={form.checkpoint}\n".encode())
    state.output.result(form.data(), text)


def _shown(found: JobPlan) -> str:
    return "\n\n".join(filter(None, (_table(found), _total(found), types_text(found.release))))


def _table(found: JobPlan) -> str:
    rows = [
        (
            job.name,
            "done" if job.is_done else "to do",
            ", ".join(sorted(job.needs.labels)) or "any",
            ", ".join(job.cells[:3]) + (f" and {len(job.cells) - 3} more" if len(job.cells) > 3 else ""),
            None if job.is_done else _minutes(job.needs.seconds),
            None if job.is_done else size(job.needs.memory_bytes),
            None if job.is_done else size(job.needs.disk_bytes),
        )
        for job in found.jobs
    ]
    return table(("job", "state", "machine", "cells", "minutes", "memory", "disk"), rows)


def _total(found: JobPlan) -> str:
    seconds = sum(job.needs.seconds for job in found.pending)
    return f"{_done_and_to_do(found)}, about {_minutes(seconds)} minutes one after another"


def _done_and_to_do(found: JobPlan) -> str:
    pending = len(found.pending)
    return f"{count(len(found.jobs) - pending, 'job')} done, {pending} to do"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f}" if seconds < 600 else f"{seconds / 60:.0f}"
