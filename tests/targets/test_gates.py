"""Gates: bounds on figures."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from targets.gates import Gate, judge

numbers = st.floats(allow_nan=False, allow_infinity=False)


@given(numbers, numbers)
def test_value_passes_one_of_two_opposite_bounds_or_both_if_equal(bound: float, value: float) -> None:
    above, below = Gate(at_least=bound).allows(value), Gate(at_most=bound).allows(value)
    assert above == (value >= bound)
    assert below == (value <= bound)
    assert above or below


@given(numbers)
def test_nan_fails_every_gate(bound: float) -> None:
    assert not Gate(at_least=bound).allows(math.nan)
    assert not Gate(at_most=bound).allows(math.nan)
    assert Gate(at_least=bound).allows(math.inf)
    assert not Gate(at_most=bound).allows(math.inf)


@given(numbers, numbers)
@example(1234567891, 1234567890)
def test_a_result_keeps_the_bound_that_was_checked(value: float, bound: float) -> None:
    """Evidence has the bound as text alone, and reports hold other values to it."""
    for gate in (Gate(at_least=bound), Gate(at_most=bound)):
        (result,) = judge({"artifact_bytes": value}, {"artifact_bytes": gate}, asked_by="project")
        assert result.passed == result.allows(value) == gate.allows(value)
    assert (str(Gate(at_most=bound)) == f"<= {bound:g}") == (float(f"{bound:g}") == bound)


@pytest.mark.parametrize(
    "content",
    [{}, {"at_least": 1.0, "at_most": 2.0}, {"at_least": math.nan}, {"at_most": math.inf}, {"at_mots": 1.0}]
    + [{"at_most": value} for value in (True, "1", None, [1])],
)
def test_invalid_gate_is_refused(content: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Gate.model_validate(content)


def test_zero_is_a_valid_bound() -> None:
    assert Gate(at_most=0).allows(0)
    assert not Gate(at_most=0).allows(1e-9)


def test_missing_figure_fails_its_gate() -> None:
    gates = {"kl_mean": Gate(at_most=0.05), "same_top_share": Gate(at_least=0.9), "perplexity": Gate(at_most=20)}
    results = judge({"kl_mean": 0.01, "same_top_share": 0.8, "kl_max": 3.0}, gates, asked_by="project")
    assert [(r.figure, r.bound, r.value, r.passed) for r in results] == [
        ("kl_mean", "<= 0.05", 0.01, True),
        ("same_top_share", ">= 0.9", 0.8, False),
        ("perplexity", "<= 20", None, False),
    ]
    assert {result.asked_by for result in results} == {"project"}
