"""What accuracy on a device is compared with: the float32 reference's answers to 256 positions of held-out text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from builders.checkpoint import Checkpoint
from builders.devices.kl_base import LONGEST, compared
from builders.devices.provider import ReferenceAnswers
from builders.reference import FloatReference
from builders.tokenizer import tokenizer_of
from builders.validation.origin import require_origin
from builders.validation.text import read_text, windows_of
from builders.validation.unseen import require_other_text
from registry.bundle.folder import Bundle
from targets.evaluation import EvaluationSettings
from targets.progress import Progress, silent

POSITIONS = 256


def reference_answers(
    bundle: Bundle,
    checkpoint: Checkpoint,
    *,
    text: Path | None = None,
    cache: Path | None = None,
    on_progress: Progress = silent,
) -> ReferenceAnswers:
    """Return at least `POSITIONS` positions of a text, to be compared with a bundle of this checkpoint.

    Args:
        bundle: must have been built from the checkpoint; sequences are no longer than its runtime is exact for.
        checkpoint: what the bundle was built from. Every byte of it is read.
        text: held-out text; None for the built-in one.
        cache: folder of the reference's hidden states.
        on_progress: receives the step `reference`.

    Raises:
        MeasurementError: another checkpoint, or a text too short.
        CalibrationError: the bundle was calibrated on the text.
    """
    require_origin(bundle, checkpoint)
    require_other_text(bundle, checkpoint, EvaluationSettings(text))
    length = min(LONGEST, bundle.manifest.model.exact_context_length)
    sequences = -(-POSITIONS // max(1, compared(length)))
    tokens = windows_of(tokenizer_of(checkpoint), read_text(text), count=sequences, length=length)
    reference = FloatReference(checkpoint, cache, on_progress)

    def logits() -> Iterator[NDArray[np.float32]]:
        for states in reference.hidden(tokens):
            yield reference.logits(states)

    return ReferenceAnswers(tokens, checkpoint.architecture.vocabulary_size, logits)
