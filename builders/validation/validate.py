"""Evidence of a bundle: run in its own runtime, compared with its checkpoint in float32 on the same tokens.

What is measured is decided here; how two answers are compared is in `compare.py`, speed in `speed.py`. Gates are judged
by whoever asked for them (`targets/gates.py`).
"""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from builders.checkpoint import Checkpoint
from builders.oracle import Agreement, ask_oracle, check_bundle
from builders.oracle.transformers_text import TextTruth
from builders.reference import FloatReference, token_digest
from builders.runtime.isolation import open_isolated
from builders.runtime.session import Session
from builders.tokenizer import Tokenizer, tokenizer_of
from builders.validation.behaviour.subject import PAST, QUICK, Sample, Subject, with_special_tokens
from builders.validation.behaviour.suite import check_behaviour
from builders.validation.compare import Comparison, matching_share
from builders.validation.origin import require_origin
from builders.validation.speed import NEW_TOKENS, PROMPT_TOKENS, RUNS, measure_speed
from builders.validation.text import BUILT_IN_NAME, name_of_text, read_text, windows_of
from builders.validation.tokens import runtime_tokens_share
from builders.validation.unseen import require_other_text
from registry.bundle.folder import Bundle, verify
from registry.bundle.requirements import check_requirements
from targets.errors import MeasurementError
from targets.evaluation import EvaluationSettings
from targets.evidence import FIGURES, Evidence, Figure
from targets.evidence_details import Details
from targets.progress import Progress, Step, silent, with_subject

STRETCH_TOKENS = 512  # read past the longest sequence that the runtime computes exactly, past an edge, or at an end
LONGEST_TOKENS = 4096  # of a sequence that fills a quantized cache


@dataclass(frozen=True)
class _Measurement:
    """What all figures are measured with: a bundle and its open session, the reference, and the text."""

    bundle: Bundle
    session: Session
    reference: FloatReference
    tokenizer: Tokenizer
    text: str
    text_name: str
    on_progress: Progress


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
        on_progress: receives the steps `oracle`, `reference`, `compare`, `behaviour`, `generate` and `speed`. Their
            subject is the recipe.

    Raises:
        MeasurementError: another checkpoint, one that phipack reads differently from transformers, a text too short,
            or the runtime refuses the bundle.
        CalibrationError: the bundle was calibrated on the text.
        BundleError: the bundle's bytes are not its manifest's, or need more than it says.
    """
    settings = settings or EvaluationSettings()
    on_progress = with_subject(on_progress, bundle.manifest.recipe.name)
    verify(bundle)
    check_requirements(bundle)
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
    with open_isolated(bundle) as session:
        using = _Measurement(bundle, session, reference, tokenizer, text, name, on_progress)
        figures = _accuracy(using, windows, settings)
        checked, details = _behaviour(using, settings, agreement.text, figures)
    figures |= checked | _under_edge(using, windows) | _tokens(using)
    if session.is_own_runtime:
        figures |= _speed(using)
    figures |= _reference_figures(agreement)
    figures |= _measured({"artifact_bytes": bundle.manifest.total_bytes}, "all files of the bundle")
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
        MeasurementError: phipack reads the checkpoint differently from transformers, or the text is too short.
    """
    newer = settings.allow_newer_transformers
    ask_oracle(checkpoint, cache=cache, allow_newer_transformers=newer, on_progress=on_progress)
    architecture = checkpoint.architecture
    edges = (architecture.effective_window, architecture.longrope_edge(context_length))
    if all(edge is None or edge >= settings.window for edge in edges):  # else the runtime's exact length decides
        _windows(checkpoint, tokenizer_of(checkpoint), settings, context_length)


def _windows(
    checkpoint: Checkpoint, tokenizer: Tokenizer, settings: EvaluationSettings, exact_length: int
) -> NDArray[np.int64]:
    length = min(settings.window, exact_length, settings.tokens)
    text = read_text(settings.text)
    windows = windows_of(tokenizer, text, count=-(-settings.tokens // max(1, length)), length=length)
    if windows.max() >= checkpoint.architecture.vocabulary_size:
        raise MeasurementError(
            f"{checkpoint.path}: the tokenizer gives id {windows.max()}, past the vocabulary of "
            f"{checkpoint.architecture.vocabulary_size}",
            fix="the tokenizer and the weights belong to different models: copy the tokenizer's files of this model",
        )
    return windows


def _accuracy(using: _Measurement, windows: NDArray[np.int64], settings: EvaluationSettings) -> dict[str, Figure]:
    """Measure what the open session answers: on the windows, and where it may answer differently."""
    on = f"{windows.size} tokens of {using.text_name}, {using.session.runtime}"
    figures = _measured(_compare(using, using.session, windows), on)
    figures |= _measured(_greedy(using, windows, settings), on)
    return figures | _past_exact(using) | _past_edge(using) | _full_cache(using, windows)


def _behaviour(
    using: _Measurement, settings: EvaluationSettings, truth: TextTruth, known: Mapping[str, Figure]
) -> tuple[dict[str, Figure], Details | None]:
    """Run the behaviour suite, or the sample of it that was asked for. `known`: figures that were measured before."""
    if settings.suite == "accuracy":
        return {}, None
    sample = QUICK if settings.suite == "quick" else Sample()
    model = using.bundle.manifest.model
    tokens, _ = _long_sequence(using, min(sample.edge_tokens + PAST, model.context_length))
    special = sorted(number for number in set(truth.added.values()) if number < model.vocabulary_size)
    subject = Subject(
        using.bundle,
        using.session,
        using.reference,
        truth,
        using.tokenizer,
        with_special_tokens(tokens[0], special),
        sample,
        using.on_progress,
    )
    started = time.monotonic()
    found = check_behaviour(subject, known, settings.window)
    seconds = {"behaviour": round(time.monotonic() - started, 1)}
    figures = _measured(found.figures, f"suite {settings.suite}, {using.session.runtime}")
    details = Details(
        suite=settings.suite, checks=found.checks, not_run=found.not_run, answers=found.answers, seconds=seconds
    )
    return figures, details


def _tokens(using: _Measurement) -> dict[str, Figure]:
    """Measure whether the runtime's own tokenizer agrees; nothing where it has none."""
    share = runtime_tokens_share(using.bundle, using.tokenizer, using.text)
    if share is None:
        return {}
    return _measured({"runtime_tokens_share": share}, f"lines of {using.text_name}, as they are and as a user's turn")


def _speed(using: _Measurement) -> dict[str, Figure]:
    """Measure speed and memory on this machine, in processes of their own."""
    using.on_progress(Step("speed", 0, 1))
    runtime = using.session.runtime
    on = f"{platform.machine()}, {PROMPT_TOKENS} tokens in, {NEW_TOKENS} out, median of {RUNS}, {runtime}"
    figures = _measured(asdict(measure_speed(using.bundle)), on)
    using.on_progress(Step("speed", 1, 1))
    return figures


def _compare(using: _Measurement, session: Session, windows: NDArray[np.int64]) -> dict[str, float]:
    hidden = using.reference.hidden(windows)
    comparison = Comparison()
    for number, (states, tokens) in enumerate(zip(hidden, windows, strict=True)):
        using.on_progress(Step("compare", number * windows.shape[1], windows.size, "tokens"))
        comparison.add(using.reference.logits(states), session.score(tokens), tokens)
    using.on_progress(Step("compare", windows.size, windows.size, "tokens"))
    return comparison.figures()


def _past_exact(using: _Measurement) -> dict[str, Figure]:
    """Measure a sequence that is longer than the runtime is exact for; nothing where none can be.

    llama.cpp ignores the sliding window: these figures say what that costs, and no gate on accuracy counts them.
    """
    model = using.bundle.manifest.model
    exact = model.exact_context_length
    exact_again = (context.first - 1 for context in model.exact_contexts if context.first > exact)
    return _stretch(using, "past_exact", exact + 1, next(exact_again, model.context_length))


def _past_edge(using: _Measurement) -> dict[str, Figure]:
    """Measure past longrope's edge, in the context that the manifest says is exact there; nothing where none is."""
    contexts = using.bundle.manifest.model.exact_contexts
    beyond = next((context for context in contexts if context.first > 1), None)
    return {} if beyond is None else _stretch(using, "past_edge", beyond.first, beyond.last)


def _full_cache(using: _Measurement, windows: NDArray[np.int64]) -> dict[str, Figure]:
    """Measure the end of a sequence as long as the context or the text, at most `LONGEST_TOKENS`.

    Only where the KV cache is quantized: errors of many positions add up there. Nothing where the windows are as long.
    """
    if not using.bundle.manifest.recipe.kv_cache:
        return {}
    available = len(using.tokenizer.encode(using.text))
    last = min(using.bundle.manifest.model.exact_context_length, LONGEST_TOKENS, available)
    return {} if last <= windows.shape[1] else _stretch(using, "full_cache", max(1, last + 1 - STRETCH_TOKENS), last)


def _stretch(using: _Measurement, prefix: str, first: int, last: int) -> dict[str, Figure]:
    """Measure tokens `first` to `last` of one sequence, at most `STRETCH_TOKENS`; nothing where there are none."""
    if first + 1 > last:  # perplexity needs a token that follows another
        return {}
    length = min(last, first - 1 + STRETCH_TOKENS)
    tokens, name = _long_sequence(using, length)
    comparison, part = Comparison(), slice(first - 1, length)
    logits = using.reference.logits(using.reference.hidden(tokens)[0][part])
    comparison.add(logits, using.session.score(tokens[0])[part], tokens[0][part])
    on = f"tokens {first} to {length} of one sequence of {name}, {using.session.runtime}"
    return _measured(_few(prefix, comparison.figures()), on)


def _long_sequence(using: _Measurement, length: int) -> tuple[NDArray[np.int64], str]:
    """Return one window [1, length] of the text, or of the built-in one where the text is too short, and its name."""
    text, name = using.text, using.text_name
    if len(using.tokenizer.encode(text)) < length:
        text, name = read_text(None), BUILT_IN_NAME
        text *= length // len(using.tokenizer.encode(text)) + 1  # repeated, where an edge lies past its end
    return windows_of(using.tokenizer, text, count=1, length=length), name


def _under_edge(using: _Measurement, windows: NDArray[np.int64]) -> dict[str, Figure]:
    """Measure the windows in llama.cpp opened for the whole context at once, as an app does that opens only one.

    It then takes longrope's long factors for short sequences: these figures say what that costs.
    """
    model = using.bundle.manifest.model
    own = next((context for context in model.exact_contexts if windows.shape[1] <= context.last), None)
    if own is None or own.open_with == model.context_length:
        return {}
    with open_isolated(using.bundle, for_whole_context=True) as session:
        found = _compare(using, session, windows)
        on = f"{windows.size} tokens of {using.text_name}, opened for {model.context_length} tokens, {session.runtime}"
    return _measured(_few("under_edge", found), on)


def _reference_figures(agreement: Agreement) -> dict[str, Figure]:
    values = {
        "reference_difference": agreement.log_probability_difference,
        "reference_state_difference": agreement.state_difference,
    }
    return _measured(values, agreement.on)


def _few(prefix: str, figures: Mapping[str, float]) -> dict[str, float]:
    return {f"{prefix}_{name}": figures[name] for name in ("kl_mean", "same_top_share", "perplexity_ratio")}


def _greedy(using: _Measurement, windows: NDArray[np.int64], settings: EvaluationSettings) -> dict[str, float]:
    room = min(settings.greedy_prompt_tokens, windows.shape[1] // 2)
    new = min(settings.greedy_new_tokens, windows.shape[1] - room)
    prompts = windows[: settings.greedy_prompts, :room]
    found = np.empty((len(prompts), new), dtype=np.int64)
    for number, prompt in enumerate(prompts):
        using.on_progress(Step("generate", number * new, found.size, "tokens"))
        logits = using.session.prefill(prompt)
        for position in range(new):
            found[number, position] = logits.argmax()
            if position + 1 < new:
                logits = using.session.step(int(found[number, position]))
    using.on_progress(Step("generate", found.size, found.size, "tokens"))
    # The reference reads the bundle's continuations instead of writing its own: up to the first difference the two are
    # the same, and past it nothing counts. One walk over the layers, not one a token.
    expected = using.reference.likeliest(np.concatenate([prompts, found[:, :-1]], axis=1))[:, room - 1 :]
    return {"greedy_match_share": matching_share(expected, found)}


def _measured(values: Mapping[str, float], on: str) -> dict[str, Figure]:
    return {
        name: Figure(value=float(value), unit=FIGURES[name][0], kind="measured", on=on)
        for name, value in values.items()
    }
