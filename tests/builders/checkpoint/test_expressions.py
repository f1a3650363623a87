"""Regular expressions of an adapter: those that people write are used, those that would not end are refused."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.checkpoint.adapter.expressions import expression_problem

NAME = "model.layers.31.self_attn.qkv_proj"


@pytest.mark.parametrize(
    "expression",
    [
        "o_proj",
        "all-linear",
        r".*\.layers\.\d+\.(self_attn|mlp)\.(qkv|o|down)_proj",
        r"model\.layers\.([0-9]|1[0-5])\..*",
        r".*(vision_model|language_model).*(fc1|fc2|qkv_proj).*",
        r"(?!.*lm_head).*proj$",
        r"[)|*+]*\(a+\)+",
        r"(.*\.)?down_proj",
        "((a)b)*",
    ],
)
def test_what_people_write_is_used(expression: str) -> None:
    assert expression_problem(expression) is None


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("(a+)+x", "repeats a group"),
        ("([a-z_.]*)*x", "repeats a group"),
        ("(a|a)*x", "repeats a group"),
        ("(?:a?){1,40}x", "repeats a group"),
        ("((a+)b)+", "repeats a group"),
        (".*.*.*.*.*.*x", "more than 5 parts"),
        ("[", "is not a regular expression"),
        ("a{99999999999}", "is not a regular expression"),
        ("a" * 1001, "more than 1000 characters"),
        ("(?P<phipack_layer>a)", "names a group phipack_layer"),
    ],
)
def test_what_would_not_end_is_refused(expression: str, words: str) -> None:
    problem = expression_problem(expression)
    assert problem is not None
    assert words in problem


@given(expression=st.text(st.sampled_from("ab.*+?(|)[]{1,}\\^$"), max_size=14))
def test_what_is_used_ends(expression: str) -> None:
    if expression_problem(expression) is None:
        re.match(rf"(.*\.)?({expression})$", "a" * 40 + "." + NAME)
