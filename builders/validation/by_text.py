"""Texts of several kinds compared, the worst of them named, and all divergences broken down."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from builders.validation.breakdown import kind_divergences, position_divergences, text_divergence
from builders.validation.compare import Rows
from builders.validation.measurement import Measurement, compare, measured
from builders.validation.sampled_texts import ENGLISH, KINDS_OF_TEXT, text_windows
from builders.validation.stretches import across_edges
from builders.validation.text import BUILT_IN_NAME
from registry.files.digests import digest_of_bytes
from targets.architecture import Architecture, LongRope
from targets.evaluation import EvaluationSettings
from targets.evidence import Figure
from targets.evidence_details import ROPE_FACTORS, Details, Reach


def compare_texts(using: Measurement, settings: EvaluationSettings, rows: Rows) -> tuple[dict[str, Figure], Details]:
    """Compare texts of other kinds, as the suite asks for, and break all down. `rows`: of the evaluation's own text.

    The reference walks over the layers once for all texts.
    """
    model, checkpoint = using.bundle.manifest.model, using.reference.checkpoint
    found = {own_name(using.text_name, settings): rows}
    windows = text_windows(checkpoint, using.tokenizer, settings, model.exact_context_length)
    if windows:
        hidden = using.reference.hidden(np.concatenate([*windows.values()]))  # all are of one length
        ends = np.cumsum([len(each) for each in windows.values()])
        for (name, tokens), states in zip(windows.items(), np.split(hidden, ends[:-1]), strict=True):
            found[name] = compare(using, using.session, tokens, states)
    far = across_edges(using, int(rows.position.max())) if settings.suite == "full" else []
    positions = position_divergences(Rows.joined([rows, *far]), checkpoint.architecture, model.context_length)
    details = Details(
        suite=settings.suite,
        reach=reach_of(checkpoint.architecture),
        texts=tuple(filter(None, (text_divergence(name, each) for name, each in found.items()))),
        positions=tuple(positions),
        classes=tuple(kind_divergences(Rows.joined([*found.values()]), using.tokenizer)),
    )
    return (_figures(using, found) if windows else {}), details


def reach_of(architecture: Architecture) -> Reach:
    """Return which tokens a checkpoint attends to, and how it tells their places."""
    longrope = architecture.longrope
    kind = "plain" if longrope is None else f"longrope past {longrope.original_context:,} tokens"
    part = f", {architecture.rotary_dim} of {architecture.head_dim} elements" if architecture.partial_rotary_dim else ""
    factors = "" if longrope is None else f"{ROPE_FACTORS}{_digits(longrope)}"
    return Reach(
        context_length=architecture.context_length,
        sliding_window=architecture.sliding_window,
        rope=f"{kind}, base {architecture.rope_theta:,.15g}{part}{factors}",
    )


def _digits(longrope: LongRope) -> str:
    """Return the first digits of the digest of the factors, which nothing else in the evidence shows."""
    numbers = longrope.short, longrope.long, longrope.short_attention_factor, longrope.long_attention_factor
    return digest_of_bytes(repr(numbers).encode()).removeprefix("sha256:")[:8]


def own_name(name: str, settings: EvaluationSettings) -> str:
    """Return what the evaluation's own text is called: no name of another one, whatever its file is called."""
    if settings.text is None:
        return ENGLISH
    return f"the file {name}" if name in KINDS_OF_TEXT else name


def _figures(using: Measurement, found: Mapping[str, Rows]) -> dict[str, Figure]:
    runtime = using.session.runtime
    worst = max(float(rows.kl.mean()) for rows in found.values())
    figures = measured({"worst_text_kl_mean": worst}, f"{', '.join(found)}, {runtime}")
    for name in KINDS_OF_TEXT:
        if name in found:
            on = f"{len(found[name].kl)} tokens of {BUILT_IN_NAME} {name}, {runtime}"
            figures |= measured({f"{name}_kl_mean": found[name].kl.mean()}, on)
    return figures
