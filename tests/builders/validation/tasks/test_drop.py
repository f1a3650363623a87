"""The drop on a task, held to scipy's paired bootstrap."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import bootstrap

from builders.validation.tasks.drop import drop_of


def test_the_interval_is_that_of_resampled_pairs() -> None:
    rng = np.random.default_rng(3)
    reference = rng.random(300) < 0.7
    bundle = np.where(rng.random(300) < 0.1, ~reference, reference)
    found = drop_of(reference.tolist(), bundle.tolist())
    differences = reference.astype(float) - bundle
    theirs = bootstrap((differences,), np.mean, n_resamples=10_000, method="percentile", rng=rng).confidence_interval
    assert (found.low, found.high) == (pytest.approx(theirs.low, abs=0.004), pytest.approx(theirs.high, abs=0.004))
    assert found.low < found.reference_accuracy - found.accuracy < found.high
    assert found.reference_accuracy == reference.mean()
    assert found.accuracy == bundle.mean()


def test_flips_are_counted_both_ways() -> None:
    found = drop_of([True, True, True, False, False], [True, False, False, True, False])
    assert (found.questions, found.lost, found.gained) == (5, 2, 1)


def test_the_same_answers_lose_nothing_and_the_seed_is_fixed() -> None:
    same = drop_of([True, False] * 20, [True, False] * 20)
    assert (same.low, same.high, same.lost, same.gained) == (0, 0, 0, 0)
    mixed = [[True] * 30 + [False] * 10, [True] * 25 + [False] * 15]
    assert drop_of(*mixed) == drop_of(*mixed)


def test_a_drop_that_is_certain_has_a_positive_lower_end() -> None:
    assert drop_of([True] * 100, [True] * 60 + [False] * 40).low > 0.25
    assert drop_of([True] * 10, [True] * 9 + [False]).low == 0
