"""Sequences where a runtime may answer differently than on ordinary windows: past edges, and at a full KV cache.

Each is one sequence of the evaluation's text, of which up to `STRETCH_TOKENS` are compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from builders.runtime.isolation import open_isolated
from builders.tokenizer import Tokenizer
from builders.validation.compare import Comparison, Rows
from builders.validation.lengths import Exactness
from builders.validation.measurement import Measurement, compare, measured
from builders.validation.text import BUILT_IN_NAME, read_text, windows_of
from registry.bundle.folder import Bundle
from targets.architecture import Architecture
from targets.evaluation import EvaluationSettings
from targets.evidence import Figure
from targets.progress import Step

Span = tuple[int, int]  # the first and the last token that are compared, from 1
STRETCH_TOKENS = 512  # read past the longest sequence that the runtime computes exactly, past an edge, or at an end
LONGEST_TOKENS = 4096  # of a sequence that fills a quantized cache, or up to an edge


def past_exact(using: Measurement, longest: int | None = None) -> dict[str, Figure]:
    """Measure a sequence that is longer than the runtime is exact for; nothing where none can be.

    llama.cpp ignores the sliding window: these figures say what that costs, and no gate on accuracy counts them.
    `longest`: nothing of a sequence of more tokens.
    """
    return _stretch(using, "past_exact", past_exact_span(using.bundle.manifest.model, longest))


def past_edge(using: Measurement, longest: int | None = None) -> dict[str, Figure]:
    """Measure past longrope's edge, in the context that the manifest says is exact there; nothing where none is."""
    return _stretch(using, "past_edge", past_edge_span(using.bundle.manifest.model, longest))


def full_cache(using: Measurement, windows: NDArray[np.int64]) -> dict[str, Figure]:
    """Measure the end of the sequence that `full_cache_end` decides on; nothing where there is none."""
    last = full_cache_end(using.bundle, using.text_tokens, windows.shape[1])
    return {} if last is None else _stretch(using, "full_cache", cache_span(last))


def full_cache_end(bundle: Bundle, text_tokens: int, window: int) -> int | None:
    """Return the length of a sequence that fills the cache as far as context and text reach, at most `LONGEST_TOKENS`.

    Only where the KV cache is quantized: errors of many positions add up there. None where windows of `window` tokens
    are as long.
    """
    if not bundle.manifest.recipe.kv_cache:
        return None
    return cache_end(bundle.manifest.model, text_tokens, window)


def across_edges(using: Measurement, known: int) -> list[Rows]:
    """Compare one whole sequence that goes `STRETCH_TOKENS` past the sliding window and longrope's edge.

    Whatever the runtime makes of it there. Nothing where no edge is within the context, or windows of `known` tokens
    go past it. Edges past `LONGEST_TOKENS` are left out: onnxruntime and Core ML compute the logits of all tokens of a
    sequence at once where it passes longrope's edge.
    """
    architecture, length = using.reference.checkpoint.architecture, using.bundle.manifest.model.context_length
    last = across_edges_end(architecture, length, known)
    return [] if last is None else [_compare_end(using, 1, last)[0]]


def past_exact_span(model: Exactness, longest: int | None = None) -> Span | None:
    """Return the first and the last token that `past_exact` compares."""
    exact = model.exact_context_length
    exact_again = (context.first - 1 for context in model.exact_contexts if context.first > exact)
    return _span(exact + 1, next(exact_again, model.context_length), longest)


def past_edge_span(model: Exactness, longest: int | None = None) -> Span | None:
    """Return the first and the last token that `past_edge` compares."""
    beyond = next((context for context in model.exact_contexts if context.first > 1), None)
    return None if beyond is None else _span(beyond.first, beyond.last, longest)


def cache_end(model: Exactness, text_tokens: int, window: int) -> int | None:
    """Return what `full_cache_end` does, of a quantized cache."""
    last = min(model.exact_context_length, LONGEST_TOKENS, text_tokens)
    return None if last <= window else last


def across_edges_end(architecture: Architecture, context_length: int, known: int) -> int | None:
    """Return the length of the sequence that `across_edges` compares; None where there is none."""
    most = min(context_length, LONGEST_TOKENS + 1)
    edges = [edge for edge in architecture.edges(context_length).values() if known <= edge < most]
    return min(context_length, max(edges) + STRETCH_TOKENS) if edges else None


def is_opened_again(model: Exactness, window: int) -> bool:
    """Return whether `under_edge` compares windows of so many tokens."""
    own = next((context for context in model.exact_contexts if window <= context.last), None)
    return own is not None and own.open_with != model.context_length


def spans_read(
    lengths: Exactness, architecture: Architecture, settings: EvaluationSettings, window: int, cache_end: int | None
) -> list[Span]:
    """Return the first and the last token that are compared of each long sequence that a suite reads.

    `window`: tokens of the evaluation's own windows. `cache_end`: the length of the sequence that fills the cache.
    """
    longest = settings.longest_sequence
    found = [past_exact_span(lengths, longest), past_edge_span(lengths, longest)]
    if cache_end is not None:
        found.append(cache_span(cache_end))
    if settings.suite == "full" and (end := across_edges_end(architecture, lengths.context_length, window)) is not None:
        found.append((1, end))
    return [span for span in found if span is not None]


def cache_span(last: int) -> Span:
    """Return the first and the last token that `full_cache` compares of a sequence of `last` tokens."""
    return max(1, last + 1 - STRETCH_TOKENS), last


def _span(first: int, last: int, longest: int | None) -> Span | None:
    """Return at most `STRETCH_TOKENS` tokens of a sequence.

    None where it has more than `longest` tokens, or one alone is left: perplexity needs one that follows.
    """
    end = min(last, first - 1 + STRETCH_TOKENS)
    return None if first + 1 > last or (longest is not None and end > longest) else (first, end)


def _stretch(using: Measurement, prefix: str, span: Span | None) -> dict[str, Figure]:
    """Measure the tokens of a span of one sequence; nothing where there are none."""
    if span is None:
        return {}
    first, last = span
    rows, name = _compare_end(using, first, last)
    on = f"tokens {first} to {last} of one sequence of {name}, {using.session.runtime}"
    return measured(_few(prefix, rows.figures()), on)


def _compare_end(using: Measurement, first: int, last: int) -> tuple[Rows, str]:
    """Compare tokens `first` to `last` of one sequence. Returns the name of its text, too."""
    tokens, name = long_sequence(using, last)
    comparison = Comparison()
    states = using.reference.hidden(tokens)[0]
    start, count = first - 1, last + 1 - first
    using.on_progress(Step("compare", 0, count, "tokens"))
    for found in _stretches(using.session.score_end(tokens[0], start)):  # logits of few rows at a time, on both sides
        part = slice(start, start + len(found))
        comparison.add(using.reference.logits(states[part]), found, tokens[0][part], first=start + 1)
        start += len(found)
        using.on_progress(Step("compare", start + 1 - first, count, "tokens"))
    return comparison.rows, name


def _stretches(parts: Iterator[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
    """Yield the rows of some parts, `STRETCH_TOKENS` at a time."""
    held: NDArray[np.float32] | None = None
    for part in parts:
        held = part if held is None else np.concatenate([held, part])
        while len(held) >= STRETCH_TOKENS:
            yield held[:STRETCH_TOKENS]
            held = held[STRETCH_TOKENS:]
    if held is not None and len(held):
        yield held


def long_sequence(using: Measurement, length: int) -> tuple[NDArray[np.int64], str]:
    """Return one window [1, length] of the text, or of the built-in one where the text is too short, and its name."""
    return sequence_of(using.tokenizer, (using.text, using.text_name), using.text_tokens, length)


def sequence_of(
    tokenizer: Tokenizer, named_text: tuple[str, str], text_tokens: int, length: int
) -> tuple[NDArray[np.int64], str]:
    """Return what `long_sequence` does, of a text with its name and its number of tokens."""
    text, name = named_text
    if text_tokens < length:
        text, name = read_text(None), BUILT_IN_NAME
        if (tokens := len(tokenizer.encode(text))) < length:  # an edge lies past its end
            text, name = text * (length // tokens + 1), f"{name} (repeated)"
    return windows_of(tokenizer, text, count=1, length=length), name


def under_edge(using: Measurement, windows: NDArray[np.int64], hidden: NDArray[np.float32]) -> dict[str, Figure]:
    """Measure the windows in llama.cpp opened for the whole context at once, as an app does that opens only one.

    It then takes longrope's long factors for short sequences: these figures say what that costs.
    """
    model = using.bundle.manifest.model
    if not is_opened_again(model, windows.shape[1]):
        return {}
    with open_isolated(using.bundle, for_whole_context=True) as session:
        found = compare(using, session, windows, hidden).figures()
        on = f"{windows.size} tokens of {using.text_name}, opened for {model.context_length} tokens, {session.runtime}"
    return measured(_few("under_edge", found), on)


def _few(prefix: str, figures: Mapping[str, float]) -> dict[str, float]:
    return {f"{prefix}_{name}": figures[name] for name in ("kl_mean", "same_top_share", "perplexity_ratio")}
