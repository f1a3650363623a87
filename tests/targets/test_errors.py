"""Errors: problem, fix and exit code."""

from __future__ import annotations

import inspect

import pytest
from hypothesis import given
from hypothesis import strategies as st

from targets import errors
from targets.errors import PhipackError, UnsupportedModelError, did_you_mean

names = st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=5)


def test_error_text_contains_problem_and_fix() -> None:
    error = UnsupportedModelError("no such layer", fix="take another")
    assert str(error) == "no such layer\n  fix: take another"
    assert (error.problem, error.fix, error.exit_code) == ("no such layer", "take another", 1)


def test_every_error_has_a_docstring_and_is_a_phipack_error() -> None:
    classes = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if kind.__module__ == errors.__name__]
    classes.remove(errors.Failure)  # what a GateError carries
    assert len(classes) > 10
    assert all(issubclass(kind, PhipackError) and kind.__doc__ for kind in classes)


@given(names)
def test_known_name_is_its_own_suggestion(known: list[str]) -> None:
    assert did_you_mean(known[0], known) == f"did you mean {known[0]!r}?"


def test_name_unlike_all_others_lists_all_names() -> None:
    assert did_you_mean("zzz", ["beta", "alpha"]) == "known: alpha, beta"


@pytest.mark.parametrize(("name", "meant"), [("galaxy-s42", "galaxy-s24"), ("galaxy-s26", "galaxy-s25")])
def test_the_same_characters_in_another_order_come_first(name: str, meant: str) -> None:
    known = [f"galaxy-s{number}" for number in (22, 23, 24, 25)]
    assert did_you_mean(name, known) == f"did you mean {meant!r}?"
