"""Walks of the reference that can be made before the bundle is in memory: a large one leaves no room for both.

onnxruntime takes 13.8 GB for medium's 4-bit bundle, and a walk 3. The reference's answers are drafted by the bundle,
and checks of behaviour walk over rounded weights, so that other suites than `accuracy` still need both at once.
"""

from __future__ import annotations

import numpy as np

from builders.reference import FloatReference
from builders.tokenizer import Tokenizer
from builders.validation.sampled_texts import text_windows
from builders.validation.stretches import across_edges_end, full_cache_end, past_edge_span, past_exact_span, sequence_of
from builders.validation.text import name_of_text, read_text
from registry.bundle.folder import Bundle
from targets.evaluation import EvaluationSettings


def walk_beforehand(
    reference: FloatReference, bundle: Bundle, tokenizer: Tokenizer, settings: EvaluationSettings, window: int
) -> None:
    """Compute and keep the reference's states of long sequences and of texts of other kinds.

    Nothing where it has no cache that would keep them. `window`: tokens of the evaluation's own windows.

    Raises:
        CheckpointError: the chat template fails.
        MeasurementError: the tokenizer has ids past the vocabulary.
    """
    if reference.cache is None:
        return
    text, name = read_text(settings.text), name_of_text(settings.text)
    for length in _long_sequences(reference, bundle, settings, window, len(tokenizer.encode(text))):
        reference.hidden(sequence_of(tokenizer, text, name, length)[0])
    longest = bundle.manifest.model.exact_context_length
    if windows := text_windows(reference.checkpoint, tokenizer, settings, longest):
        reference.hidden(np.concatenate([*windows.values()]))


def _long_sequences(
    reference: FloatReference, bundle: Bundle, settings: EvaluationSettings, window: int, text_tokens: int
) -> list[int]:
    """Return the lengths of the sequences that `stretches.py` reads."""
    model, longest = bundle.manifest.model, settings.longest_sequence
    spans = [past_exact_span(model, longest), past_edge_span(model, longest)]
    ends = [span[1] for span in spans if span is not None]
    ends.append(full_cache_end(bundle, text_tokens, window) or 0)
    if settings.suite == "full":
        ends.append(across_edges_end(reference.checkpoint.architecture, model.context_length, window) or 0)
    return sorted({end for end in ends if end})
