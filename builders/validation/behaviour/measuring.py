"""The behaviour suite as a part of a validation: what it looks at, and what becomes of it in the evidence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from builders.oracle.transformers_text import TextTruth
from builders.validation.answers import Answered
from builders.validation.behaviour.subject import PAST, Subject, sample_of, special_ids, with_special_tokens
from builders.validation.behaviour.suite import check_behaviour
from builders.validation.measurement import Measurement, compared
from builders.validation.stretches import full_cache_end, long_sequence
from builders.validation.text import window_length
from targets.evaluation import EvaluationSettings
from targets.evidence import Figure
from targets.evidence_details import Details


@dataclass(frozen=True)
class Known:
    """What a validation has found so far: figures, and answers to the built-in prompts."""

    figures: Mapping[str, Figure]
    answered: Answered


def measure_behaviour(
    using: Measurement, settings: EvaluationSettings, truth: TextTruth, known: Known, details: Details
) -> tuple[dict[str, Figure], Details]:
    """Run the suite, or the sample of it that is asked for; return its figures, and the details with its checks.

    `truth`: what transformers makes of the checkpoint's text.
    """
    if settings.suite == "accuracy":
        return {}, details
    sample = sample_of(settings.suite)
    model = using.bundle.manifest.model
    tokens, _ = long_sequence(using, min(sample.edge_tokens + PAST, model.context_length))
    subject = Subject(
        using.bundle,
        using.session,
        using.reference,
        truth,
        using.tokenizer,
        with_special_tokens(tokens[0], special_ids(truth, model)),
        sample,
        using.on_progress,
    )
    cache_end = full_cache_end(using.bundle, using.text_tokens, window_length(settings, model.exact_context_length))
    found = check_behaviour(subject, known.answered, known.figures, cache_end)
    figures = compared(found.figures, f"suite {settings.suite}", using.session.runtime)
    added = {"checks": found.checks, "not_run": found.not_run}
    return figures, details.model_copy(update=added)
