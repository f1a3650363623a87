"""`validate`: a bundle against its checkpoint."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from phipack.options import FILE, FOLDER, State, adapter_option, pass_state, profile_option, target_option
from phipack.tables import table
from targets.errors import Failure, GateError, PhipackError
from targets.evaluation import SUITES
from targets.formatting import bound, figure, share

if TYPE_CHECKING:
    from targets.evaluation import Suite
    from targets.evidence import Evidence
    from targets.evidence_details import Details
    from targets.gates import Gate


class GateText(click.ParamType[tuple[str, "Gate"]]):
    """A bound on a figure: `kl_mean<=0.05`, `same_top_share>=0.9`."""

    name = "gate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Gate]:
        """Return the figure and its bound."""
        from phipack.api.arguments import parse_gate

        try:
            return value if isinstance(value, tuple) else parse_gate(value)
        except PhipackError as error:
            self.fail(f"{error.problem}; {error.fix}", param, ctx)


@click.command()
@click.argument("bundle", type=FOLDER)
@click.option("--against", "checkpoint", required=True, type=FOLDER, help="The checkpoint that it was built from.")
@adapter_option
@target_option
@click.option(
    "--gate",
    "bounds",
    multiple=True,
    type=GateText(),
    metavar="'FIGURE<=N'",
    help="A bound, such as 'kl_mean<=0.05' (repeatable).",
)
@click.option("--text", type=FILE, help="Held-out text to read. [default: one that comes with phipack]")
@click.option("--tokens", type=click.IntRange(min=64), help="Tokens of text to read. [default: 4096]")
@click.option("--tasks", type=FOLDER, help="Questions that both answer (docs/validation.md). [default: none]")
@click.option("--safety", type=FOLDER, help="Prompts that should be refused; no answer is shown. [default: none]")
@click.option(
    "--suite",
    type=click.Choice(SUITES),
    help="What is measured: accuracy; also behaviour (edges, ids, chat template, greedy answers); quick, a sample of "
    "everything; full, everything. [default: accuracy]",
)
@click.option(
    "--allow-newer-transformers",
    is_flag=True,
    help="Don't refuse a checkpoint that a newer transformers than the installed one wrote.",
)
@click.option("-o", "--out", type=FILE, metavar="FILE", help="Write the evidence here, as JSON.")
@profile_option
@pass_state
def validate(
    state: State,
    bundle: Path,
    checkpoint: Path,
    adapter: Path | None,
    target: str | None,
    bounds: tuple[tuple[str, Gate], ...],
    text: Path | None,
    tokens: int | None,
    tasks: Path | None,
    safety: Path | None,
    suite: Suite | None,
    allow_newer_transformers: bool,
    out: Path | None,
) -> None:
    """Run a bundle in its own runtime and its checkpoint in float32 on the same text, and compare.

    First the reading of the checkpoint is compared with transformers' own: its config, its tokenizer and chat template,
    its first two layers and its head. Where the two differ, the command names what differs first and ends.

    Exits with 3 where a check of the behaviour suite fails, unless a gate bounds behaviour_failed_checks, and where a
    gate fails: of the target, of --gate, or of the project file that --project names, whose text
    and settings are used too. Without gates, the figures are shown.
    """
    from phipack.api.building import open_checkpoint
    from phipack.api.validation import validate as measure
    from registry.files.output_file import check_output_file, write_output_file

    gates = _gates(bounds)
    if out is not None:
        check_output_file(out)
    evidence = measure(
        bundle,
        open_checkpoint(checkpoint, adapter=adapter),
        target=target,
        project=state.named_project,
        gates=gates,
        text=text,
        tokens=tokens,
        tasks=tasks,
        safety=safety,
        suite=suite,
        allow_newer_transformers=allow_newer_transformers,
        on_progress=state.output.on_progress,
    )
    if out is not None:
        write_output_file(out, evidence.to_json().encode())
    state.output.result(json.loads(evidence.to_json()), evidence_text(evidence))
    failed = [*map(str, evidence.failed_gates), *evidence.failed_checks]
    if failed:
        failures = [Failure(str(bundle), one) for one in failed]
        raise GateError(
            f"{bundle} does not pass: {'; '.join(failed)}",
            failures=failures,
            fix="build it with another recipe, or change the gates",
        )


def _gates(bounds: tuple[tuple[str, Gate], ...]) -> dict[str, Gate]:
    from phipack.api.arguments import one_gate_each

    try:
        return one_gate_each(bounds)
    except PhipackError as error:
        raise click.UsageError(f"--gate: {error.problem}; {error.fix}") from error


def evidence_text(evidence: Evidence) -> str:
    """Lay out figures and gates in tables."""
    figures = [(name, figure(name, f.value, f.unit), f.kind, f.on) for name, f in evidence.figures.items()]
    text = table(("figure", "value", "", "on"), figures)
    if evidence.details is not None and evidence.details.checks:
        text += "\n\n" + checks_text(evidence.details)
    if evidence.gates:
        gates = [
            (g.figure, bound(g.figure, g.bound), figure(g.figure, g.value), g.asked_by, "pass" if g.passed else "FAIL")
            for g in evidence.gates
        ]
        text += "\n\n" + table(("gate", "bound", "value", "asked by", ""), gates)
    return text + "".join(f"\n\n{part}" for part in _details_text(evidence))


def _details_text(evidence: Evidence) -> Iterator[str]:
    """Yield tables of tasks, next to published scores, and of safety."""
    from targets.published import MODELS, PUBLISHED, SOURCE

    details = evidence.details
    if details is not None and details.tasks:
        rows = [
            (
                each.task,
                each.asked,
                share(each.reference_accuracy),
                share(each.accuracy),
                f"{each.drop_low:+.3f} to {each.drop_high:+.3f}",
                f"{each.lost} lost, {each.gained} gained",
            )
            for each in details.tasks
        ]
        yield table(("task", "questions", "float32", "bundle", "drop (95 %)", "answers"), rows)
        for name in sorted({each.benchmark for each in details.tasks} & set(PUBLISHED)):
            scores = ", ".join(f"{model} {score}" for model, score in zip(MODELS, PUBLISHED[name], strict=True))
            yield f"{name}, published, from another harness ({SOURCE}): {scores}"
    if details is not None and details.safety:
        refused = [
            (
                each.prompts,
                str(each.count),
                f"{each.reference_refusals} / {each.refusals}",
                str(each.refusals_lost),
                share(each.same_tokens_share),
                f"{each.first_token_kl_mean:.4f} nat",
            )
            for each in details.safety
        ]
        yield table(("prompts", "", "refused: float32 / bundle", "lost", "same tokens", "KL at first"), refused)


def checks_text(details: Details) -> str:
    """Lay out the checks of the behaviour suite: those that failed one by one, the others counted by group."""
    failed = [(check.group, check.name, "FAIL", check.detail) for check in details.checks if not check.passed]
    passed = Counter(check.group for check in details.checks if check.passed)
    counted = [(group, f"{count} checks", "pass", "") for group, count in passed.items()]
    skipped = [(one.group, one.name, "not run", one.reason) for one in details.not_run]
    return table(("group", "check", "", "detail"), [*failed, *counted, *skipped])
