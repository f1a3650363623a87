"""What a bundle loses on a task, from the same questions answered by the reference: paired, with an interval.

Most questions are answered alike, so the drop is decided by the few that flip. They are resampled in pairs (Efron and
Tibshirani, An Introduction to the Bootstrap, percentile interval), with a fixed seed. What the interval can't say:
where no question flips it is [0, 0], which is a statement on these questions alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
_SAMPLES = 10_000
_SEED = 20_260_101


@dataclass(frozen=True)
class Drop:
    """Accuracy of both, flips both ways, and the interval of reference_accuracy - accuracy."""

    questions: int
    reference_accuracy: float
    accuracy: float
    lost: int
    gained: int
    low: float
    high: float


def drop_of(reference: Sequence[bool], bundle: Sequence[bool]) -> Drop:
    """Compare the answers to the same questions, right or wrong. There must be some."""
    asked, given = np.asarray(reference, dtype=bool), np.asarray(bundle, dtype=bool)
    lost, gained = int((asked & ~given).sum()), int((given & ~asked).sum())
    count = len(asked)
    # Of a resample only the number of questions lost, gained and neither matters: a multinomial draw.
    shares = np.asarray([lost, gained, count - lost - gained]) / count
    drawn = np.random.default_rng(_SEED).multinomial(count, shares, size=_SAMPLES)
    low, high = np.quantile((drawn[:, 0] - drawn[:, 1]) / count, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Drop(count, float(asked.mean()), float(given.mean()), lost, gained, float(low), float(high))
