"""Walks of the reference that can be made before the bundle is in memory: a large one leaves no room for both.

onnxruntime takes 13.8 GB for medium's 4-bit bundle, and a walk 3. The reference's answers are drafted by the bundle,
and checks of behaviour walk over rounded weights, so that other suites than `accuracy` still need both at once.
"""

from __future__ import annotations

import numpy as np

from builders.reference import FloatReference
from builders.tokenizer import Tokenizer
from builders.validation.sampled_texts import text_windows
from builders.validation.stretches import full_cache_end, sequence_of, spans_read
from registry.bundle.folder import Bundle
from targets.evaluation import EvaluationSettings


def walk_beforehand(
    reference: FloatReference,
    bundle: Bundle,
    tokenizer: Tokenizer,
    settings: EvaluationSettings,
    window: int,
    named_text: tuple[str, str],
) -> None:
    """Compute and keep the reference's states of long sequences and of texts of other kinds.

    Nothing where it has no cache that would keep them. `window`: tokens of the evaluation's own windows. `named_text`:
    its text, with its name.

    Raises:
        CheckpointError: the chat template fails.
        MeasurementError: the tokenizer has ids past the vocabulary.
    """
    if reference.cache is None:
        return
    model, text_tokens = bundle.manifest.model, len(tokenizer.encode(named_text[0]))
    end = full_cache_end(bundle, text_tokens, window)
    for _, last in spans_read(model, reference.checkpoint.architecture, settings, window, end):
        reference.hidden(sequence_of(tokenizer, named_text, text_tokens, last)[0])
    if windows := text_windows(reference.checkpoint, tokenizer, settings, model.exact_context_length):
        reference.hidden(np.concatenate([*windows.values()]))
