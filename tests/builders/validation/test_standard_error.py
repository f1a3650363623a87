"""How sure a mean is, against what repeating the sampling gives."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import lfilter

from builders.validation.standard_error import BLOCK, block_numbers, standard_error


def test_blocks_of_equal_size_give_the_standard_error_of_their_means() -> None:
    values = np.random.default_rng(0).exponential(size=16 * BLOCK)
    means = values.reshape(16, BLOCK).mean(-1)
    assert standard_error(values, block_numbers(len(values))) == pytest.approx(means.std(ddof=1) / 4)


def test_it_is_what_repeated_samples_of_correlated_tokens_vary_by() -> None:
    """Neighbours that are correlated over 10 tokens: without blocks, the error would be a third of the true one."""
    rng = np.random.default_rng(0)
    samples = lfilter([1.0], [1.0, -0.85], rng.standard_normal((400, 4096)))[:, -4000:]
    true = samples.mean(-1).std()
    blocks = block_numbers(4000)
    found = np.mean([standard_error(sample, blocks) for sample in samples[:100]])
    alone = np.mean([standard_error(sample, np.arange(4000)) for sample in samples[:100]])
    assert found == pytest.approx(true, rel=0.12)
    assert alone < 0.4 * true


def test_blocks_of_unequal_size_are_those_of_repeated_samples() -> None:
    """A kind of token of which a block has few or many, and more divergence where there are many."""
    rng = np.random.default_rng(1)
    means, errors = [], []
    for _ in range(600):
        sizes = rng.integers(1, 40, size=60)
        blocks = np.repeat(np.arange(60), sizes)
        values = rng.standard_normal(len(blocks)) + np.repeat(sizes / 20 + rng.standard_normal(60), sizes)
        means.append(values.mean())
        errors.append(standard_error(values, blocks))
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.1)


@pytest.mark.parametrize(("length", "sizes"), [(16, [16]), (64, [64]), (95, [95]), (96, [64, 32]), (200, [64, 64, 72])])
def test_a_rest_at_the_end_is_a_block_of_its_own_only_if_it_is_long_enough(length: int, sizes: list[int]) -> None:
    assert np.bincount(block_numbers(length)).tolist() == sizes


def test_one_block_says_nothing_and_an_infinite_value_everything() -> None:
    assert standard_error(np.ones(10), np.zeros(10, np.int64)) is None
    assert standard_error(np.array([1.0, np.inf]), np.array([0, 1])) == np.inf
