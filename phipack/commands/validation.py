"""`validate`: a bundle against its checkpoint."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from phipack.formatting import bound, figure
from phipack.options import FILE, FOLDER, State, pass_state, target_option
from phipack.output import table

if TYPE_CHECKING:
    from targets.evidence import Evidence
    from targets.gates import Gate

_GATE = re.compile(r"(?P<figure>[a-z0-9_]+)\s*(?P<sign><=|>=)\s*(?P<bound>[-+.0-9eE]+)")


@click.command()
@click.argument("bundle", type=FOLDER)
@click.option("--against", "checkpoint", required=True, type=FOLDER, help="The checkpoint that it was built from.")
@target_option
@click.option(
    "--gate", "bounds", multiple=True, metavar="'FIGURE<=N'", help="A bound, such as 'kl_mean<=0.05' (repeatable)."
)
@click.option("--text", type=FILE, help="Held-out text to read. [default: one that comes with phipack]")
@click.option("--tokens", type=click.IntRange(min=64), help="Tokens of text to read. [default: 4096]")
@click.option("-o", "--out", type=FILE, metavar="FILE", help="Write the evidence here, as JSON.")
@pass_state
def validate(
    state: State,
    bundle: Path,
    checkpoint: Path,
    target: str | None,
    bounds: tuple[str, ...],
    text: Path | None,
    tokens: int | None,
    out: Path | None,
) -> None:
    """Run a bundle in its own runtime and its checkpoint in float32 on the same text, and compare.

    Ends with 3 where a gate fails: of the target, of --gate, or of the project file that --project names, from which
    text and settings come too. With no gate, the figures are shown.
    """
    from dataclasses import replace

    from builders.build_cache import BuildCache
    from builders.checkpoint import open_checkpoint
    from builders.release import judged, refusal
    from builders.validation.validate import validate as measure
    from registry.bundle.folder import open_bundle
    from registry.files.staging import disk_errors
    from targets.devices import target_named
    from targets.evaluation import EvaluationSettings
    from targets.prediction import predicted_figures
    from targets.recipes import recipe_named

    gates: dict[str, dict[str, Gate]] = {"command line": dict(_gate(bound) for bound in bounds)}
    opened = open_bundle(bundle)
    settings = EvaluationSettings()
    if state.named_project is not None:
        plan = state.required_project
        gates["project"], settings = plan.gates, plan.settings
    settings = replace(settings, text=text or settings.text, tokens=tokens or settings.tokens)
    original = open_checkpoint(checkpoint)
    evidence = measure(
        opened, original, settings, cache=BuildCache(state.home).reference_folder, on_progress=state.output.on_progress
    )
    if target is not None:
        device = target_named(target)
        gates["target"] = device.gates
        model, recipe = opened.manifest.model, recipe_named(opened.manifest.recipe.name)
        predicted = predicted_figures(original.architecture, recipe, device, model.context_length)
        evidence = evidence.model_copy(update={"target": device.name, "figures": evidence.figures | predicted})
    evidence = judged(evidence, gates)
    if out is not None:
        with disk_errors(out):
            out.write_text(evidence.to_json(), "utf-8")
    state.output.result(evidence.model_dump(mode="json", by_alias=True), evidence_text(evidence))
    if evidence.failed_gates:
        raise refusal(str(bundle), evidence)


def evidence_text(evidence: Evidence) -> str:
    """Lay out figures and gates for people."""
    figures = [(name, figure(name, f.value, f.unit), f.kind, f.on) for name, f in evidence.figures.items()]
    text = table(("figure", "value", "", "on"), figures)
    if evidence.gates:
        gates = [
            (g.figure, bound(g.figure, g.bound), figure(g.figure, g.value), g.asked_by, "pass" if g.passed else "FAIL")
            for g in evidence.gates
        ]
        text += "\n\n" + table(("gate", "bound", "value", "asked by", ""), gates)
    return text


def _gate(text: str) -> tuple[str, Gate]:
    from targets.errors import did_you_mean
    from targets.evidence import FIGURES
    from targets.gates import Gate

    match = _GATE.fullmatch(text.strip())
    try:
        bound = float(match["bound"]) if match else None
    except ValueError:
        bound = None
    if match is None or bound is None:
        raise click.UsageError(f"--gate {text!r}: write it as 'kl_mean<=0.05' or 'same_top_share>=0.9'")
    if match["figure"] not in FIGURES:
        raise click.UsageError(f"--gate {text!r}: no such figure: {did_you_mean(match['figure'], FIGURES)}")
    return match["figure"], Gate(at_most=bound) if match["sign"] == "<=" else Gate(at_least=bound)
