"""Runs until some agree: what other work on the machine makes of a speed is not taken for it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest

from builders.validation.speed import MOST_RUNS, MOST_SECONDS, agreeing, spread


def test_spread_is_relative_to_the_median() -> None:
    assert spread([8.0, 10.0, 11.0]) == pytest.approx(0.3)
    assert spread([5.0]) == 0


def test_runs_end_with_the_first_three_in_a_row_that_agree() -> None:
    prefill = iter([(50.0, 10.0), (100.0, 10.0), (101.0, 10.0), (99.0, 10.0), (1.0, 10.0)])
    assert agreeing(prefill, 0.1) == [(100.0, 10.0), (101.0, 10.0), (99.0, 10.0)]
    assert next(prefill) == (1.0, 10.0)  # not a run more than needed


def test_both_speeds_must_agree() -> None:
    runs = [(10.0, 1.0), (10.0, 9.0), (10.0, 9.0), (10.0, 9.0)]
    assert agreeing(iter(runs), 0.1) == runs[1:]


def test_where_none_agree_the_last_are_returned_after_a_bounded_number() -> None:
    taken: list[int] = []
    runs = ((float(taken.append(number) or number), 1.0) for number in count(1))  # type: ignore[func-returns-value]
    assert agreeing(runs, 0.01) == [(7.0, 1.0), (8.0, 1.0), (9.0, 1.0)]
    assert len(taken) == MOST_RUNS


def test_slow_runs_are_not_repeated_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])

    def slow() -> Iterator[tuple[float, float]]:
        for number in count(1):
            now[0] += MOST_SECONDS * 0.3
            yield float(number), 1.0

    assert agreeing(slow(), 0.01) == [(2.0, 1.0), (3.0, 1.0), (4.0, 1.0)]
