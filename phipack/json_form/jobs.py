"""Forms of `plan`, `matrix` and `release --defer-registration`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from builders.matrix.graph import Job, Kind
from builders.matrix.grouping import Group
from builders.quantization.calibration.walks import Blocks
from phipack.api.job_results import JobOutcome, JobPlan, JobsReport, Matrix
from phipack.json_form.form import Form, ProblemForm, problem_form
from phipack.json_form.making import CellForm, cell_form
from targets.calibration import Calibration


class JobForm(Form):
    """One job: what it is for, and what it is estimated to need of a machine."""

    name: str = Field(description="stable: made from recipe, context and the digest of all inputs")
    kind: Kind
    key: str = Field(description="digest of all inputs; the name of its record in the store")
    recipe: str = Field(description="of its bundle; empty for a calibration, which bundles of several recipes share")
    calibration: Calibration
    blocks: Blocks | None = Field(
        description="of a calibration that measures sensitivities, the 4-bit blocks; otherwise null"
    )
    budget: str | None = Field(description="of its bundle: `at most 2000000000 B` or `4.2 bits`")
    kv_cache: str | None = Field(description="type of keys and values to open it with; null: the format's own")
    candidates: list[str] = Field(description="types that may be chosen for the budget; empty: all of the format's")
    context_tokens: int = Field(description="of its bundle; 0 for a calibration")
    cells: list[str] = Field(description="the cells that need it")
    after: list[str] = Field(description="names of jobs that must be done before")
    done: bool = Field(description="any machine has recorded it, and the store has its bundle or files")
    labels: list[str] = Field(description="what the machine must be or have: macos, android, ios; empty for any")
    target: str = Field(description="of a measurement, the device that it is for; otherwise empty")
    seconds: float
    memory_bytes: int
    disk_bytes: int


class PlanForm(Form):
    """The jobs of a release."""

    model: str
    version: str
    checkpoint: str = Field(description="digest of the checkpoint, for `release --finish --checkpoint-digest`")
    passed: bool = Field(description="nothing is known that stands against any cell")
    cells: list[CellForm] = Field(description="as `release --dry-run` reports them")
    jobs: list[JobForm]


class GroupForm(Form):
    """Jobs that one job of a CI does on one machine."""

    name: str
    machine: str = Field(description="`any`, or its labels joined by +")
    labels: list[str]
    jobs: list[str] = Field(description="names, in order")
    last_jobs: list[str] = Field(description="for --job of `release --defer-registration`: these come after the others")
    cells: list[str]
    seconds: float
    memory_bytes: int
    disk_bytes: int


class MatrixForm(Form):
    """The jobs that would run, in groups; none where all is done."""

    model: str
    version: str
    checkpoint: str
    groups: list[GroupForm]


class JobOutcomeForm(JobForm):
    """What became of a job."""

    state: Literal["done", "recorded", "failed"] = Field(description="recorded: any machine had done it before")
    problem: ProblemForm | None


class JobsForm(Form):
    """Jobs that were done for a release that is registered later."""

    model: str
    version: str
    checkpoint: str
    jobs: list[JobOutcomeForm]


def plan_form(plan: JobPlan) -> PlanForm:
    """Describe a plan."""
    return PlanForm(
        model=plan.release.model,
        version=str(plan.release.version),
        checkpoint=plan.checkpoint,
        passed=plan.release.passed,
        cells=[cell_form(cell) for cell in plan.release.cells],
        jobs=[job_form(job) for job in plan.jobs],
    )


def matrix_form(matrix: Matrix) -> MatrixForm:
    """Describe a matrix."""
    release = matrix.plan.release
    return MatrixForm(
        model=release.model,
        version=str(release.version),
        checkpoint=matrix.plan.checkpoint,
        groups=[group_form(group) for group in matrix.groups],
    )


def jobs_form(report: JobsReport) -> JobsForm:
    """Describe jobs that were done."""
    return JobsForm(
        model=report.model,
        version=report.version,
        checkpoint=report.checkpoint,
        jobs=[_outcome_form(outcome) for outcome in report.outcomes],
    )


def job_form(job: Job) -> JobForm:
    """Describe a job."""
    return JobForm(
        name=job.name,
        kind=job.kind,
        key=job.key,
        recipe=job.recipe,
        calibration=job.calibration,
        blocks=job.blocks,
        budget=None if job.budget is None else job.budget.label,
        kv_cache=job.kv_cache or None,
        candidates=list(job.candidates),
        context_tokens=job.context_length,
        cells=list(job.cells),
        after=list(job.after),
        done=job.is_done,
        labels=sorted(job.needs.labels),
        target=job.target,
        seconds=round(job.needs.seconds, 1),
        memory_bytes=job.needs.memory_bytes,
        disk_bytes=job.needs.disk_bytes,
    )


def group_form(group: Group) -> GroupForm:
    """Describe a group of jobs."""
    return GroupForm(
        name=group.name,
        machine="+".join(group.labels) or "any",
        labels=list(group.labels),
        jobs=[job.name for job in group.jobs],
        last_jobs=[job.name for job in group.last_jobs],
        cells=list(group.cells),
        seconds=round(group.seconds, 1),
        memory_bytes=group.memory_bytes,
        disk_bytes=group.disk_bytes,
    )


def _outcome_form(outcome: JobOutcome) -> JobOutcomeForm:
    problem = None if outcome.problem is None else problem_form(outcome.problem)
    state: Literal["done", "recorded", "failed"] = "failed" if problem else "done" if outcome.done else "recorded"
    described = job_form(outcome.job).model_dump() | {"done": problem is None}
    return JobOutcomeForm(**described, state=state, problem=problem)
