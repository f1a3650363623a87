"""Gates: bounds on figures."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from targets.gates import Gate, GateResult, judge

numbers = st.floats(allow_nan=False, allow_infinity=False)


@given(numbers, numbers)
def test_value_passes_one_of_two_opposite_bounds_or_both_if_equal(bound: float, value: float) -> None:
    above, below = Gate(at_least=bound).allows(value), Gate(at_most=bound).allows(value)
    assert above == (value >= bound)
    assert below == (value <= bound)
    assert above or below


@given(numbers, numbers)
def test_a_result_keeps_its_bound_exactly(bound: float, value: float) -> None:
    for gate in (Gate(at_least=bound), Gate(at_most=bound)):
        (result,) = judge({"kl_mean": value}, {"kl_mean": gate}, asked_by="project")
        assert result.allows(value) == result.passed == gate.allows(value)
        assert result.allows(bound)


@pytest.mark.parametrize(
    ("gate", "value", "said"),
    [
        (Gate(at_most=0.05), 0.050003, "kl_mean is 0.050003, must be <= 0.05 (asked by project)"),
        (Gate(at_most=0.05), 0.0611119, "kl_mean is 0.06111, must be <= 0.05 (asked by project)"),
        (Gate(at_most=2147483647), 2147483648.0, "is 2147483648, must be <= 2147483647 (asked"),
    ],
)
def test_a_figure_that_fails_narrowly_is_not_said_to_be_the_bound(gate: Gate, value: float, said: str) -> None:
    (result,) = judge({"kl_mean": value}, {"kl_mean": gate}, asked_by="project")
    assert said in str(result)


@given(numbers)
def test_nan_fails_every_gate(bound: float) -> None:
    assert not Gate(at_least=bound).allows(math.nan)
    assert not Gate(at_most=bound).allows(math.nan)
    assert Gate(at_least=bound).allows(math.inf)
    assert not Gate(at_most=bound).allows(math.inf)


@pytest.mark.parametrize(
    "content",
    [{}, {"at_least": 1.0, "at_most": 2.0}, {"at_least": math.nan}, {"at_most": math.inf}, {"at_mots": 1.0}]
    + [{"at_most": value} for value in (True, "1", None, [1])],
)
def test_invalid_gate_is_refused(content: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Gate.model_validate(content)


@pytest.mark.parametrize("value", [None, math.nan])
def test_a_result_that_passes_without_a_figure_is_refused(value: float | None) -> None:
    """Evidence is read from files: promotion believes what they say of their gates."""
    with pytest.raises(ValidationError, match="the gate on kl_mean passed without a figure"):
        GateResult(figure="kl_mean", bound="<= 0.05", value=value, passed=True, asked_by="project")


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
