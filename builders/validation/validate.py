"""Evidence of a bundle: run in its own runtime, compared with its checkpoint in float32 on the same tokens.

What is measured is decided here. Gates are judged by whoever asked for them (`targets/gates.py`).
"""

from __future__ import annotations

import platform
import statistics
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from builders.checkpoint import Checkpoint
from builders.checkpoint.unchanged import FileStates, states_of
from builders.oracle import Agreement, ask_oracle, check_bundle
from builders.reference import Continuations, FloatReference, token_digest
from builders.runtime.isolation import open_isolated
from builders.tokenizer import Tokenizer, tokenizer_of
from builders.validation.answers import answer_for_suite
from builders.validation.beforehand import walk_beforehand
from builders.validation.behaviour.measuring import Known, measure_behaviour
from builders.validation.by_text import compare_texts
from builders.validation.compare import Rows
from builders.validation.measurement import Measurement, compare, compared, measured
from builders.validation.origin import require_origin
from builders.validation.prompts import check_prompts, compare_prompts
from builders.validation.sampled_texts import text_windows
from builders.validation.speed import RUNS, agree, lengths, measure_speed
from builders.validation.stretches import full_cache, past_edge, past_exact, under_edge
from builders.validation.text import name_of_text, read_text, require_known, window_length, windows_of
from builders.validation.tokens import runtime_tokens_share
from builders.validation.unseen import require_other_text
from registry.bundle.folder import Bundle, verify
from registry.bundle.manifest import MANIFEST_NAME
from registry.bundle.requirements import check_requirements
from targets.errors import BundleError
from targets.evaluation import EvaluationSettings
from targets.evidence import Evidence, Figure
from targets.evidence_details import SpeedRuns
from targets.progress import Notice, Progress, Step, phase, silent, with_subject


def validate(
    bundle: Bundle,
    checkpoint: Checkpoint,
    settings: EvaluationSettings | None = None,
    *,
    cache: Path | None = None,
    on_progress: Progress = silent,
) -> Evidence:
    """Measure a bundle against its checkpoint. Gates are judged elsewhere: figures don't depend on them.

    First the oracle holds the reading of the checkpoint, and the bundle's tokenizer, template and stop ids, to
    transformers: a bundle and a reference that share a misreading would agree.

    Args:
        bundle: verified first, byte by byte.
        checkpoint: must be the one that the bundle was built from.
        settings: what to read.
        cache: folder of the reference's hidden states, and of what the oracle found.
        on_progress: receives the steps `oracle`, `open`, `reference`, `compare`, `generate`, `answer`, `tasks`,
            `behaviour` and `speed`. Their subject is the recipe.

    Raises:
        MeasurementError: another checkpoint, one that phipack reads differently from transformers, a text too short,
            or the runtime refuses the bundle.
        CalibrationError: the bundle was calibrated on the text.
        BundleError: the bundle's bytes are not its manifest's, or need more than it says; or it was changed meanwhile.
        CheckpointError: it was changed meanwhile.
    """
    settings = _limited(settings or EvaluationSettings())
    on_progress = with_subject(on_progress, bundle.manifest.recipe.name)
    seen = _states(bundle)
    with phase(on_progress, "hash", worked_bytes=bundle.manifest.total_bytes):
        verify(bundle)
    check_requirements(bundle)
    check_prompts(settings)
    require_origin(bundle, checkpoint)
    require_other_text(bundle, checkpoint, settings)
    agreement = ask_oracle(
        checkpoint,
        cache=cache,
        allow_newer_transformers=settings.allow_newer_transformers,
        on_progress=on_progress,
    )
    check_bundle(bundle, agreement.text)
    tokenizer = tokenizer_of(checkpoint)
    windows = _windows(checkpoint, tokenizer, settings, bundle.manifest.model.exact_context_length)
    reference = FloatReference(checkpoint, cache, on_progress)
    text, name = read_text(settings.text), name_of_text(settings.text)
    hidden = reference.hidden(windows)
    walk_beforehand(reference, bundle, tokenizer, settings, windows.shape[1], (text, name))
    on_progress(Step("open", 0, 1))
    with open_isolated(bundle) as session:
        on_progress(Step("open", 1, 1))
        using = Measurement(bundle, session, reference, tokenizer, text, name, on_progress)
        figures, rows = _accuracy(using, windows, hidden, settings)
        written = _written(using, windows, settings)
        of_texts, details = compare_texts(using, settings, rows)
        answered = answer_for_suite(using, settings.suite)
        of_prompts, details = compare_prompts(using, settings, answered, details)
        known = Known(figures, answered)
        of_behaviour, details = measure_behaviour(using, settings, agreement.text, known, details)
    figures |= of_texts | of_prompts | of_behaviour | under_edge(using, windows, hidden) | _tokens(using)
    figures |= _agreed(using, written, windows)  # a walk that can wait until the bundle's memory is free
    if session.is_own_runtime:
        of_speed, runs = _speed(using)
        figures |= of_speed
        details = details.model_copy(update={"speed": runs})
    figures |= _reference_figures(agreement)
    figures |= measured({"artifact_bytes": bundle.manifest.total_bytes}, "all files of the bundle")
    checkpoint.require_unchanged()
    if _states(bundle) != seen:
        raise BundleError(
            f"{bundle.path} was changed while it was measured: what was measured may be of two bundles",
            fix="run the same command again, while nothing writes to that folder, such as phipack build --replace",
        )
    return Evidence(
        schema="phipack.evidence/1",
        bundle=bundle.digest,
        checkpoint=checkpoint.digest,
        recipe=bundle.manifest.recipe.name,
        text=f"{token_digest(windows)}, {windows.shape[0]} windows of {windows.shape[1]} tokens",
        figures=figures,
        details=details,
    )


def check_before_building(
    checkpoint: Checkpoint,
    settings: EvaluationSettings,
    context_length: int,
    *,
    cache: Path | None = None,
    on_progress: Progress = silent,
) -> None:
    """Refuse what `validate` would refuse of any bundle of a checkpoint. The arguments are those of `validate`.

    `context_length`: of the bundles, in tokens. What the oracle finds is recorded in `cache`, so that `validate` need
    not ask again.

    Raises:
        MeasurementError: phipack reads the checkpoint differently from transformers, the text is too short, or a folder
            of tasks or prompts is malformed.
        CheckpointError: the suite renders conversations, and the chat template fails.
        SetupError: tasks are asked for, and the harness is not installed.
    """
    settings = _limited(settings)
    check_prompts(settings)
    newer = settings.allow_newer_transformers
    ask_oracle(checkpoint, cache=cache, allow_newer_transformers=newer, on_progress=on_progress)
    edges = checkpoint.architecture.edges(context_length).values()
    if all(edge >= settings.window for edge in edges):  # else the runtime's exact length decides
        tokenizer = tokenizer_of(checkpoint)
        _windows(checkpoint, tokenizer, settings, context_length)
        text_windows(checkpoint, tokenizer, settings, context_length)


def _states(bundle: Bundle) -> FileStates:
    names = [MANIFEST_NAME, *(file.path for file in bundle.manifest.files)]
    return states_of(bundle.path / name for name in names)


def _limited(settings: EvaluationSettings) -> EvaluationSettings:
    """Return the settings as the suite limits them."""
    return replace(settings, tokens=settings.tokens_read)


def _windows(
    checkpoint: Checkpoint, tokenizer: Tokenizer, settings: EvaluationSettings, exact_length: int
) -> NDArray[np.int64]:
    length = window_length(settings, exact_length)
    text = read_text(settings.text)
    windows = windows_of(tokenizer, text, count=-(-settings.tokens // max(1, length)), length=length)
    require_known(checkpoint, windows)
    return windows


def _accuracy(
    using: Measurement, windows: NDArray[np.int64], hidden: NDArray[np.float32], settings: EvaluationSettings
) -> tuple[dict[str, Figure], Rows]:
    """Measure what the open session answers: on the windows, whose rows are returned, and where it may differ.

    `hidden`: the reference's hidden states of the windows.
    """
    rows = compare(using, using.session, windows, hidden)
    figures = compared(rows.figures(), _on(using, windows), using.session.runtime)
    longest = settings.longest_sequence
    return figures | past_exact(using, longest) | past_edge(using, longest) | full_cache(using, windows), rows


def _tokens(using: Measurement) -> dict[str, Figure]:
    """Measure whether the runtime's own tokenizer agrees; nothing where it has none."""
    share = runtime_tokens_share(using.bundle, using.tokenizer, using.text)
    if share is None:
        return {}
    return measured({"runtime_tokens_share": share}, f"lines of {using.text_name}, as they are and as a user's turn")


def _speed(using: Measurement) -> tuple[dict[str, Figure], tuple[SpeedRuns, ...]]:
    """Measure speed and memory on this machine, in a process of its own. A speed whose runs disagree is no figure."""
    using.on_progress(Step("speed", 0, 1))
    speed, runtime = measure_speed(using.bundle), using.session.runtime
    using.on_progress(Step("speed", 1, 1))
    prompt, new = lengths(using.bundle.manifest.model.context_length)
    how = f"{platform.machine()}, {prompt} tokens in, {new} out"
    figures = measured({"peak_memory_bytes": speed.peak_memory_bytes}, f"{how}, {runtime}")
    for runs in speed.runs:
        if not agree(runs.values):
            values = " ".join(f"{value:.3g}" for value in runs.values)
            why = f"runs of {values} token/s disagree; other work keeps {runs.other_load:.1f} processors busy"
            using.on_progress(Notice(f"{runs.figure} is not measured: {why}"))
            continue
        on = f"{how}, median of {RUNS} within {runs.spread:.0%}, {runs.other_load:.1f} processors busy with other work"
        figures |= measured({runs.figure: statistics.median(runs.values)}, f"{on}, {runtime}")
    return figures, speed.runs


def _reference_figures(agreement: Agreement) -> dict[str, Figure]:
    values = {
        "reference_difference": agreement.log_probability_difference,
        "reference_state_difference": agreement.state_difference,
    }
    return measured(values, agreement.on)


def _on(using: Measurement, windows: NDArray[np.int64]) -> str:
    return f"{windows.size} tokens of {using.text_name}"


@dataclass(frozen=True)
class _Written:
    """What a bundle wrote greedily, and what the reference writes after the same prompts."""

    found: list[NDArray[np.int64]]
    reference: Continuations
    tokens: int  # of all that were asked for


def _written(using: Measurement, windows: NDArray[np.int64], settings: EvaluationSettings) -> _Written:
    """Have the bundle continue the beginnings of the first windows."""
    room = min(settings.greedy_prompt_tokens, windows.shape[1] // 2)
    new = min(settings.greedy_new_tokens, windows.shape[1] - room)
    prompts = windows[: settings.greedy_prompts, :room]
    continuations = Continuations(using.reference, prompts, new)
    found: list[NDArray[np.int64]] = []
    using.on_progress(Step("generate", 0, len(prompts) * new, "tokens"))
    for tokens in using.session.continue_each([*prompts], new, known=continuations.known):
        found.append(tokens)
        using.on_progress(Step("generate", len(found) * new, len(prompts) * new, "tokens"))
    return _Written(found, continuations, len(prompts) * new)


def _agreed(using: Measurement, written: _Written, windows: NDArray[np.int64]) -> dict[str, Figure]:
    share = sum(written.reference.same_tokens(written.found)) / written.tokens
    return compared({"greedy_match_share": share}, _on(using, windows), using.session.runtime)
