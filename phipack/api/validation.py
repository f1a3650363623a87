"""Bundles in, evidence and answers out. Needs `phipack[build]`, but for `judge`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from phipack.api.arguments import AnyPath, Gates, as_bundle, as_checkpoint, as_gates, as_path, as_project, as_target
from registry.bundle.folder import Bundle
from registry.bundle.recipe import recipe_of
from targets.devices import Target
from targets.errors import FitError, MeasurementError
from targets.evaluation import EvaluationSettings, Suite
from targets.evidence import Evidence, judge_figures
from targets.never_taken import never_taken
from targets.prediction import predicted_figures
from targets.progress import Progress, silent
from targets.project import Project

if TYPE_CHECKING:
    from builders.checkpoint import Checkpoint


def validate(  # noqa: PLR0913 - the public face
    bundle: AnyPath | Bundle,
    checkpoint: AnyPath | Checkpoint,
    *,
    target: AnyPath | Target | None = None,
    project: AnyPath | Project | None = None,
    gates: Gates = (),
    text: AnyPath | None = None,
    tokens: int | None = None,
    tasks: AnyPath | None = None,
    safety: AnyPath | None = None,
    suite: Suite | None = None,
    allow_newer_transformers: bool = False,
    on_progress: Progress = silent,
) -> Evidence:
    """Run a bundle in its own runtime and its checkpoint in float32 on the same text, and compare.

    First what phipack reads from the checkpoint is compared with what transformers reads.

    Args:
        bundle: a folder or an opened bundle; every byte of it is verified first.
        checkpoint: the one that it was built from.
        target: adds the predictions for this device, and its gates.
        project: gates, text and settings come from this project file.
        gates: more gates, such as `["kl_mean<=0.05"]`. A gate that fails raises nothing: see `Evidence.failed_gates`.
        text: held-out text to read; the project's, else one that comes with phipack.
        tokens: how much of it to read; the project's, else 4,096.
        tasks: a folder of questions that both answer; the project's, else none. Needs `phipack[tasks]`.
        safety: a folder of prompts that should be refused; the project's, else none. No answer's text is kept.
        suite: what is measured; the project's, else `accuracy`. `behaviour` adds checks that pass or fail
            (`Evidence.details.checks`), `quick` a sample of them, `full` is everything.
        allow_newer_transformers: hold a checkpoint that a newer transformers wrote to the installed one, instead of
            refusing it; the project may say so too.
        on_progress: called with each step.

    Raises:
        MeasurementError: another checkpoint, one that phipack reads differently from transformers, a text too short, a
            gate of `gates` on a figure that is not taken, or the runtime refuses the bundle.
        CalibrationError: the bundle was calibrated on the text. FitError: the target has no runtime for it.
        BundleError: the bundle's bytes are not those of its manifest.
        SetupError: tasks are asked for, and the harness is not installed.
    """
    from builders.build_cache import BuildCache
    from builders.validation.validate import validate as measure

    plan = None if project is None else as_project(project)
    settings = EvaluationSettings() if plan is None else plan.settings
    if plan is not None and (text, tasks, safety) == (None, None, None):
        plan.require_paths(("evaluation",))
    settings = replace(
        settings,
        text=settings.text if text is None else as_path(text),
        tokens=tokens or settings.tokens,
        tasks=settings.tasks if tasks is None else as_path(tasks),
        safety=settings.safety if safety is None else as_path(safety),
        suite=suite or settings.suite,
        allow_newer_transformers=allow_newer_transformers or settings.allow_newer_transformers,
    )
    opened, original = as_bundle(bundle), as_checkpoint(checkpoint)
    device = None if target is None else _device_of(opened, target)
    _require_taken(gates, settings)
    home = Path() if plan is None else plan.path.parent
    cache = BuildCache(home / ".phipack").reference_folder
    evidence = measure(opened, original, settings, cache=cache, on_progress=on_progress)
    if plan is not None:
        evidence = judge(evidence, plan.gates, asked_by="project")
    if device is not None:
        evidence = _on_target(evidence, opened, original, device)
    return judge(evidence, gates, asked_by="command line")


def judge(evidence: Evidence, gates: Gates, *, asked_by: str) -> Evidence:
    """Return the evidence with the results of more gates. A gate on a figure that was not taken fails.

    Args:
        evidence: its figures may hold some of your own, under names of your own.
        gates: bounds by figure (`{"kl_mean": Gate(at_most=0.05)}`), or texts (`["kl_mean<=0.05"]`).
        asked_by: whose gates they are, for messages.
    """
    results = judge_figures(evidence.figures, as_gates(gates), asked_by=asked_by)
    return evidence.model_copy(update={"gates": [*evidence.gates, *results]})


def generate(
    bundle: AnyPath | Bundle,
    prompt: str,
    *,
    max_new_tokens: int = 128,
    use_template: bool = True,
    on_progress: Progress = silent,
) -> Iterator[str]:
    """Answer a prompt piece by piece with the bundle's own runtime, the likeliest token each time.

    Args:
        bundle: a folder or an opened bundle.
        prompt: a user's message; with `use_template=False`, text that is continued as it is.
        max_new_tokens: the longest answer.
        use_template: put the prompt into the bundle's chat template.
        on_progress: called with a notice where the runtime must be opened again for a longer context.

    Raises:
        BundleError: the chat template can't be rendered. MeasurementError: the prompt is too long for the bundle.
    """
    from builders.runtime.generation import generate as generate_pieces

    return generate_pieces(
        as_bundle(bundle),
        prompt,
        max_new_tokens=max_new_tokens,
        use_template=use_template,
        on_progress=on_progress,
    )


def _require_taken(gates: Gates, settings: EvaluationSettings) -> None:
    """Raise `MeasurementError` where a gate bounds a figure that these settings never take."""
    for figure, gate in as_gates(gates).items():
        if (never := never_taken(figure, settings)) is not None:
            raise MeasurementError(
                f"the gate {figure} {gate} can't pass: {never.why}",
                fix=f"add --{never.key} {never.value}, or leave the gate out",
            )


def _device_of(bundle: Bundle, target: AnyPath | Target) -> Target:
    """Return the target. Raises `FitError` where it has no runtime for the bundle."""
    device, form = as_target(target), bundle.manifest.recipe.format
    if form not in device.formats:
        raise FitError(
            f"{device.title} has no runtime for {form}",
            fix=f"choose a target that has one, or build one of its formats: {', '.join(device.formats)}",
        )
    return device


def _on_target(evidence: Evidence, bundle: Bundle, checkpoint: Checkpoint, target: Target) -> Evidence:
    context_length = bundle.manifest.model.context_length
    predicted = predicted_figures(checkpoint.architecture, recipe_of(bundle.manifest), target, context_length)
    changed = {"target": target.name, "figures": evidence.figures | predicted}
    return judge(evidence.model_copy(update=changed), target.gates, asked_by="target")
