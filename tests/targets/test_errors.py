"""Errors: what failed and what to do, in one place."""

from __future__ import annotations

import inspect

from hypothesis import given
from hypothesis import strategies as st

from targets import errors
from targets.errors import PhipackError, UnsupportedModelError, did_you_mean

names = st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=5)


def test_a_problem_and_its_fix_are_told_together() -> None:
    error = UnsupportedModelError("no such layer", fix="take another")
    assert str(error) == "no such layer\n  fix: take another"
    assert (error.problem, error.fix, error.exit_code) == ("no such layer", "take another", 1)
    assert str(PhipackError("it broke")) == "it broke"


def test_every_error_is_one_family_and_says_what_it_is_for() -> None:
    classes = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if kind.__module__ == errors.__name__]
    classes.remove(errors.Failure)  # what a GateError carries
    assert len(classes) > 10
    assert all(issubclass(kind, PhipackError) and kind.__doc__ for kind in classes)


@given(names)
def test_a_known_name_is_its_own_nearest(known: list[str]) -> None:
    assert did_you_mean(known[0], known) == f"did you mean {known[0]!r}?"


def test_a_name_far_from_all_gets_the_whole_list() -> None:
    assert did_you_mean("zzz", ["beta", "alpha"]) == "known: alpha, beta"
