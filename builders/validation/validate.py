"""Evidence of a bundle: run in its own runtime, compared with its checkpoint in float32 on the same tokens."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from builders.checkpoint import Checkpoint
from builders.conversion import Progress, silent
from builders.reference import Reference, token_digest
from builders.runtime.isolation import open_isolated
from builders.runtime.session import Session
from builders.tokenizer import Tokenizer, load_tokenizer
from builders.validation.compare import Comparison, matching_share
from builders.validation.speed import NEW_TOKENS, PROMPT_TOKENS, RUNS, measure_speed
from builders.validation.text import read_text, windows_of
from builders.validation.tokens import runtime_tokens_share
from registry.bundle.folder import Bundle, verify
from targets.errors import MeasurementError
from targets.evaluation import Settings
from targets.evidence import FIGURES, Evidence, Figure

STRETCH_TOKENS = 512  # that are read past the longest sequence which the runtime computes exactly, or past an edge
BUILT_IN_NAME = "the built-in text"


@dataclass(frozen=True)
class _Reading:
    """What a further sequence is read with."""

    reference: Reference
    session: Session
    tokenizer: Tokenizer
    text: str
    text_name: str


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
        name = settings.text.name if settings.text else BUILT_IN_NAME
        read = _Reading(reference, session, tokenizer, read_text(settings.text), name)
        on = f"{windows.size} tokens of {name}, {session.runtime}"
        figures = _measured(_compare(reference, session, windows, progress), on)
        figures |= _measured(_greedy(reference, session, windows, settings, progress), on)
        figures |= _past_exact(bundle, read) | _past_edge(bundle, read)
        own_runtime = session.is_own_runtime
    figures |= _under_edge(bundle, read, windows, progress)
    if (share := runtime_tokens_share(bundle, tokenizer, read.text)) is not None:
        figures |= _measured({"runtime_tokens_share": share}, f"lines of {name}, as they are and as a user's turn")
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
    windows = windows_of(tokenizer, text, count=-(-settings.tokens // max(1, length)), length=length)
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


def _past_exact(bundle: Bundle, read: _Reading) -> dict[str, Figure]:
    """Measure what becomes of a sequence that is longer than the runtime is exact for; nothing where none can be.

    llama.cpp ignores the sliding window: these figures say what that costs, and no gate on accuracy counts them.
    """
    model = bundle.manifest.model
    exact = model.exact_context_length
    exact_again = (context.first - 1 for context in model.exact_contexts if context.first > exact)
    return _stretch("past_exact", exact + 1, next(exact_again, model.context_length), read)


def _past_edge(bundle: Bundle, read: _Reading) -> dict[str, Figure]:
    """Measure past longrope's edge, in the context that the manifest says is exact there; nothing where none is."""
    beyond = next((context for context in bundle.manifest.model.exact_contexts if context.first > 1), None)
    return {} if beyond is None else _stretch("past_edge", beyond.first, beyond.last, read)


def _stretch(prefix: str, first: int, last: int, read: _Reading) -> dict[str, Figure]:
    """Measure tokens `first` to `last` of one sequence, at most `STRETCH_TOKENS`; nothing where there are none."""
    if first + 1 > last:  # perplexity needs a token that follows another
        return {}
    length = min(last, first - 1 + STRETCH_TOKENS)
    text, name = read.text, read.text_name
    if len(read.tokenizer.encode(text)) < length:
        text, name = read_text(None), BUILT_IN_NAME
        text *= length // len(read.tokenizer.encode(text)) + 1  # again and again, where an edge lies past its end
    tokens = windows_of(read.tokenizer, text, count=1, length=length)
    comparison, part = Comparison(), slice(first - 1, length)
    logits = read.reference.logits(read.reference.hidden(tokens)[0][part])
    comparison.add(logits, read.session.score(tokens[0])[part], tokens[0][part])
    on = f"tokens {first} to {length} of one sequence of {name}, {read.session.runtime}"
    return _measured(_few(prefix, comparison.figures()), on)


def _under_edge(bundle: Bundle, read: _Reading, windows: NDArray[np.int64], progress: Progress) -> dict[str, Figure]:
    """Measure the windows in llama.cpp opened for the whole context at once, as an app does that opens one alone.

    It then takes longrope's long factors for short sequences: these figures say what that costs.
    """
    model = bundle.manifest.model
    own = next((context for context in model.exact_contexts if windows.shape[1] <= context.last), None)
    if own is None or own.open_with == model.context_length:
        return {}
    with open_isolated(bundle, for_whole_context=True) as session:
        found = _compare(read.reference, session, windows, progress)
        on = f"{windows.size} tokens of {read.text_name}, opened for {model.context_length} tokens, {session.runtime}"
    return _measured(_few("under_edge", found), on)


def _few(prefix: str, figures: Mapping[str, float]) -> dict[str, float]:
    return {f"{prefix}_{name}": figures[name] for name in ("kl_mean", "same_top_share", "perplexity_ratio")}


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
