"""The laws of the comparison: what KL, same-top share and perplexity must satisfy, whatever the logits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.special import log_softmax as scipy_log_softmax

from builders.validation.compare import Comparison, divergence, log_softmax
from targets.errors import MeasurementError
from targets.evidence import FIGURES
from tests.support.cases import examples

finite = st.floats(-60, 60, width=32)
logits = arrays(np.float32, array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=12), elements=finite)
quick = settings(max_examples=examples(60), deadline=None)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reference, bundle, tokens of one window."""
    reference = draw(logits)
    bundle = draw(arrays(np.float32, reference.shape, elements=finite))
    tokens = draw(arrays(np.int64, reference.shape[0], elements=st.integers(0, reference.shape[1] - 1)))
    return reference, bundle, tokens


def figures(*windows: tuple[np.ndarray, np.ndarray, np.ndarray]) -> dict[str, float]:
    comparison = Comparison()
    for reference, bundle, tokens in windows:
        comparison.add(reference, bundle, tokens)
    return comparison.figures()


@quick
@given(logits)
def test_log_softmax_is_scipys(values: np.ndarray) -> None:
    np.testing.assert_allclose(log_softmax(values), scipy_log_softmax(values.astype(np.float64), axis=-1), atol=1e-12)


@quick
@given(pairs())
def test_divergence_is_never_negative_and_in_order(window: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    found = figures(window)
    assert 0 <= found["kl_median"] <= found["kl_p99"] <= found["kl_max"]
    assert found["kl_mean"] <= found["kl_max"] * (1 + 1e-12)
    assert 0 <= found["same_top_share"] <= 1
    assert set(found) <= set(FIGURES)


@quick
@given(pairs(), st.floats(-30, 30, width=16))
def test_equal_up_to_a_shift_is_equal(window: tuple[np.ndarray, np.ndarray, np.ndarray], shift: float) -> None:
    reference, _, tokens = window
    exact = figures((reference, reference, tokens))
    assert exact["kl_max"] == 0
    assert exact["same_top_share"] == 1
    assert exact["perplexity_ratio"] == 1
    shifted = figures((reference, (reference.astype(np.float64) + shift).astype(np.float32), tokens))
    assert shifted["kl_max"] < 1e-9  # what rounding to float32 leaves


@quick
@given(pairs(), st.randoms(use_true_random=False))
def test_the_order_of_the_vocabulary_does_not_matter(
    window: tuple[np.ndarray, np.ndarray, np.ndarray], random: object
) -> None:
    reference, bundle, tokens = window
    order = np.arange(reference.shape[1])
    random.shuffle(order)  # type: ignore[attr-defined]
    places = np.argsort(order)
    before, after = figures(window), figures((reference[:, order], bundle[:, order], places[tokens]))
    for name in ("kl_mean", "kl_max", "perplexity", "reference_perplexity"):
        assert after[name] == pytest.approx(before[name], rel=1e-9, abs=1e-12)


@quick
@given(pairs(), pairs())
def test_windows_add_up(
    first: tuple[np.ndarray, np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> None:
    one, two, both = figures(first), figures(second), figures(first, second)
    counts = [len(first[2]), len(second[2])]
    assert both["kl_mean"] == pytest.approx(np.average([one["kl_mean"], two["kl_mean"]], weights=counts))
    assert both["same_top_share"] == pytest.approx(
        np.average([one["same_top_share"], two["same_top_share"]], weights=counts)
    )
    assert both["kl_max"] == max(one["kl_max"], two["kl_max"])
    nll = np.average(np.log([one["perplexity"], two["perplexity"]]), weights=[counts[0] - 1, counts[1] - 1])
    assert both["perplexity"] == pytest.approx(np.exp(nll))


def test_a_long_window_is_counted_whole() -> None:
    """More rows than are widened at a time: nothing is lost or counted twice at the seams."""
    rng = np.random.default_rng(0)
    reference, bundle = (rng.standard_normal((300, 50)).astype(np.float32) * 3 for _ in range(2))
    tokens = rng.integers(0, 50, size=300)
    log_p, log_q = (scipy_log_softmax(values.astype(np.float64), axis=-1) for values in (reference, bundle))
    kl = (np.exp(log_p) * (log_p - log_q)).sum(-1)
    found = figures((reference, bundle, tokens))
    expected = {
        "kl_mean": kl.mean(),
        "kl_median": np.median(kl),
        "kl_p99": np.quantile(kl, 0.99),
        "kl_max": kl.max(),
        "same_top_share": (reference.argmax(-1) == bundle.argmax(-1)).mean(),
        "perplexity": np.exp(-log_q[np.arange(299), tokens[1:]].mean()),
        "reference_perplexity": np.exp(-log_p[np.arange(299), tokens[1:]].mean()),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value), name


def test_a_token_that_both_rule_out_costs_nothing() -> None:
    reference = np.array([[1.0, 2.0, -np.inf], [0.0, 0.0, -np.inf]], np.float32)
    assert figures((reference, reference, np.array([0, 1])))["kl_max"] == 0
    finite_there = np.where(np.isinf(reference), -5, reference).astype(np.float32)
    assert 0 < figures((reference, finite_there, np.array([0, 1])))["kl_max"] < 0.1


def test_a_token_that_only_the_bundle_rules_out_costs_everything() -> None:
    reference = np.zeros((3, 4), np.float32)
    bundle = np.array([[0, 0, 0, -np.inf]] * 3, np.float32)
    found = figures((reference, bundle, np.array([0, 3, 3])))
    assert found["kl_mean"] == found["kl_median"] == found["kl_max"] == np.inf
    assert found["perplexity"] == found["perplexity_ratio"] == np.inf
    assert found["reference_perplexity"] == pytest.approx(4)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_no_distribution_are_refused(bad: float) -> None:
    good = np.zeros((4, 3), np.float32)
    broken = good.copy()
    broken[2, 1] = bad
    with pytest.raises(MeasurementError, match="the bundle's logits after token 2"):
        figures((good, broken, np.zeros(4, np.int64)))
    with pytest.raises(MeasurementError, match="the reference's logits after token 2"):
        figures((broken, good, np.zeros(4, np.int64)))
    with pytest.raises(MeasurementError, match="maximum is -inf"):
        figures((good, np.full_like(good, -np.inf), np.zeros(4, np.int64)))


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(MeasurementError, match=r"\[2, 4\] from the bundle, \[2, 3\] from the reference"):
        figures((np.zeros((2, 3), np.float32), np.zeros((2, 4), np.float32), np.zeros(2, np.int64)))


def test_divergence_has_a_known_value() -> None:
    """KL of (1/2, 1/2) from (1/4, 3/4) is ln 2 - ln 3 / 2."""
    log_p, log_q = np.log([[0.5, 0.5]]), np.log([[0.25, 0.75]])
    assert divergence(log_p, log_q)[0] == pytest.approx(np.log(2) - np.log(3) / 2)


def test_a_token_that_the_reference_rules_out_does_not_count_for_perplexity() -> None:
    logits = np.zeros((4, 5), np.float32)
    hidden = np.where(np.arange(5) == 3, np.float32(-np.inf), logits)
    for bundle in (hidden, np.where(np.isneginf(hidden), np.float32(-1e4), hidden)):
        comparison = Comparison()
        comparison.add(hidden, bundle, np.array([0, 3, 1, 2]))
        figures = comparison.figures()
        assert figures["perplexity_ratio"] == pytest.approx(1)
        assert figures["perplexity"] == pytest.approx(4)
    comparison = Comparison()
    comparison.add(logits, hidden, np.array([0, 3, 1, 2]))
    assert comparison.figures()["perplexity_ratio"] == np.inf


def test_a_text_of_ruled_out_tokens_is_refused() -> None:
    comparison = Comparison()
    comparison.add(hidden := np.array([[0, -np.inf]] * 3, np.float32), hidden, np.array([1, 1, 1]))
    with pytest.raises(MeasurementError, match="rules out every token"):
        comparison.figures()
