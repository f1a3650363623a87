"""Evidence of a bundle: run in its own runtime, compared with its checkpoint in float32 on the same tokens."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from builders.build import Progress, silent
from builders.checkpoint import Checkpoint
from builders.reference import Reference, token_digest
from builders.tokenizer import Tokenizer, load_tokenizer
from builders.validation.compare import Comparison, matching_share
from builders.validation.isolation import open_isolated
from builders.validation.session import Session
from builders.validation.speed import NEW_TOKENS, PROMPT_TOKENS, RUNS, measure_speed
from builders.validation.text import read_text, windows_of
from registry.bundle import Bundle, verify
from targets.errors import MeasurementError
from targets.evidence import FIGURES, Evidence, Figure

PAST_EXACT_TOKENS = 512  # that are read past the longest sequence which the runtime computes exactly


@dataclass(frozen=True)
class Settings:
    """What is read: `tokens` in windows of `window`. Greedy continuations start from the first windows' heads."""

    text: Path | None = None
    tokens: int = 4096
    window: int = 512
    greedy_prompts: int = 8
    greedy_prompt_tokens: int = 32
    greedy_new_tokens: int = 16


def validate(
    bundle: Bundle,
    checkpoint: Checkpoint,
    settings: Settings | None = None,
    *,
    cache: Path | None = None,
    progress: Progress = silent,
) -> Evidence:
    """Measure a bundle against its checkpoint. Gates are judged elsewhere: figures don't depend on them.

    Args:
        bundle: is verified first, byte by byte.
        checkpoint: must be the one that the bundle was built from.
        settings: what to read.
        cache: folder of the reference's hidden states.
        progress: told of each step.

    Raises:
        MeasurementError: another checkpoint, a text too short, or the runtime refuses the bundle.
        BundleError: the bundle's bytes are not its manifest's.
    """
    settings = settings or Settings()
    verify(bundle)
    if bundle.manifest.checkpoint != checkpoint.digest:
        raise MeasurementError(
            f"{bundle.path} was built from checkpoint {bundle.manifest.checkpoint}, not from {checkpoint.path} "
            f"({checkpoint.digest})",
            fix="give the checkpoint that it was built from",
        )
    tokenizer = load_tokenizer(checkpoint.path)
    windows = _windows(bundle, checkpoint, tokenizer, settings)
    reference = Reference(checkpoint, cache, progress)
    with open_isolated(bundle) as session:
        text = settings.text.name if settings.text else "the built-in text"
        on = f"{windows.size} tokens of {text}, {session.runtime}"
        figures = _measured(_compare(reference, session, windows, progress), on)
        figures |= _measured(_greedy(reference, session, windows, settings, progress), on)
        figures |= _past_exact(bundle, reference, session, tokenizer, settings)
        own_runtime = session.is_own_runtime
    if own_runtime:
        progress("speed and memory", 0, 1)
        host = f"{platform.machine()}, {PROMPT_TOKENS} tokens in, {NEW_TOKENS} out, median of {RUNS}, {session.runtime}"
        figures |= _measured(asdict(measure_speed(bundle)), host)
        progress("speed and memory", 1, 1)
    figures |= _measured({"artifact_bytes": bundle.manifest.total_bytes}, "all files of the bundle")
    return Evidence(
        schema="phipack.evidence/1",
        bundle=bundle.digest,
        checkpoint=checkpoint.digest,
        recipe=bundle.manifest.recipe.name,
        text=f"{token_digest(windows)}, {windows.shape[0]} windows of {windows.shape[1]} tokens",
        figures=figures,
    )


def _windows(bundle: Bundle, checkpoint: Checkpoint, tokenizer: Tokenizer, settings: Settings) -> NDArray[np.int64]:
    length = min(settings.window, bundle.manifest.model.exact_context_length, settings.tokens)
    text = read_text(settings.text)
    windows = windows_of(tokenizer, text, count=-(-settings.tokens // length), length=length)
    if windows.max() >= checkpoint.architecture.vocabulary_size:
        raise MeasurementError(f"{checkpoint.path}: the tokenizer gives id {windows.max()}, past the vocabulary")
    return windows


def _compare(
    reference: Reference, session: Session, windows: NDArray[np.int64], progress: Progress
) -> dict[str, float]:
    hidden = reference.hidden(windows)
    comparison = Comparison()
    for number, (states, tokens) in enumerate(zip(hidden, windows, strict=True)):
        progress("comparing with the reference", number, len(windows))
        comparison.add(reference.logits(states), session.score(tokens), tokens)
    progress("comparing with the reference", len(windows), len(windows))
    return comparison.figures()


def _past_exact(
    bundle: Bundle, reference: Reference, session: Session, tokenizer: Tokenizer, settings: Settings
) -> dict[str, Figure]:
    """Measure what becomes of a sequence that is longer than the runtime is exact for; nothing where none can be.

    llama.cpp ignores the sliding window: these figures say what that costs, and no gate on accuracy counts them.
    """
    model = bundle.manifest.model
    exact = model.exact_context_length
    if exact + 2 > model.context_length:  # perplexity needs a token that follows another
        return {}
    length = min(model.context_length, exact + PAST_EXACT_TOKENS)
    text, name = read_text(settings.text), settings.text.name if settings.text else "the built-in text"
    if len(tokenizer.encode(text)) < length:
        text, name = read_text(None), "the built-in text"
    window = windows_of(tokenizer, text, count=1, length=length)
    comparison = Comparison()
    past = slice(exact, length)
    logits = reference.logits(reference.hidden(window)[0][past])
    comparison.add(logits, session.score(window[0])[past], window[0][past])
    found = comparison.figures()
    values = {f"past_exact_{figure}": found[figure] for figure in ("kl_mean", "same_top_share", "perplexity_ratio")}
    return _measured(values, f"tokens {exact + 1} to {length} of one sequence of {name}, {session.runtime}")


def _greedy(
    reference: Reference,
    session: Session,
    windows: NDArray[np.int64],
    settings: Settings,
    progress: Progress,
) -> dict[str, float]:
    room = min(settings.greedy_prompt_tokens, windows.shape[1] // 2)
    new = min(settings.greedy_new_tokens, windows.shape[1] - room)
    prompts = windows[: settings.greedy_prompts, :room]
    found = np.empty((len(prompts), new), dtype=np.int64)
    for number, prompt in enumerate(prompts):
        progress("greedy continuations", number, len(prompts))
        logits = session.prefill(prompt)
        for place in range(new):
            found[number, place] = logits.argmax()
            if place + 1 < new:
                logits = session.step(int(found[number, place]))
    progress("greedy continuations", len(prompts), len(prompts))
    # The reference reads the bundle's continuations instead of writing its own: up to the first difference the two are
    # the same, and past it nothing counts. One walk over the layers, not one a token.
    expected = reference.likeliest(np.concatenate([prompts, found[:, :-1]], axis=1))[:, room - 1 :]
    return {"greedy_match_share": matching_share(expected, found)}


def _measured(values: Mapping[str, float], on: str) -> dict[str, Figure]:
    return {
        name: Figure(value=float(value), unit=FIGURES[name][0], kind="measured", on=on)
        for name, value in values.items()
    }
