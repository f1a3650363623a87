"""JSON from outside: what `json` itself reads alike is read alike; everything beyond a bound is one kind of error."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from targets.strict_json import DEPTH_LIMIT, LARGEST_INTEGER, MalformedJsonError, parse_json, parse_model

SCALARS = (
    st.none() | st.booleans() | st.integers(-LARGEST_INTEGER, LARGEST_INTEGER) | st.text() | st.floats(-1e300, 1e300)
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)


@given(value=VALUES, indent=st.none() | st.integers(0, 3), encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
def test_what_json_writes_is_read(value: Any, indent: int | None, encoding: str) -> None:
    written = json.dumps(value, indent=indent, ensure_ascii=False)
    assert parse_json(written) == value
    assert parse_json(written.encode(encoding)) == value
    assert parse_json(json.dumps(value)) == value


@given(raw=st.binary(max_size=60))
def test_any_bytes_are_read_as_json_reads_them_or_refused(raw: bytes) -> None:
    try:
        expected = json.loads(raw)
    except ValueError:
        expected = None
    try:
        found = parse_json(raw)
    except MalformedJsonError:
        return
    assert found == expected


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


REFUSED = {
    "too deep": (nested(DEPTH_LIMIT + 1), "nested deeper than 100 levels"),
    "hopelessly deep": ("[" * 1_000_000, "nested deeper"),
    "deep objects": ('{"a":' * 5000 + "1" + "}" * 5000, "nested deeper"),
    "a string that hides nothing": ('["\\"[' + "[" * 200 + '", ' + nested(DEPTH_LIMIT) + "]", "nested deeper"),
    "5,000 digits": ('{"bytes": ' + "1" * 5000 + "}", "bytes: an integer of 5000 digits"),
    "400 digits in a list": ('{"shape": [1, ' + "1" * 400 + "]}", "an integer of 400 digits"),
    "half of a pair": (r'{"path": "\ud800"}', "half of a surrogate pair"),
    "half of a pair as a key": (r'{"\udc00": 1}', "half of a surrogate pair"),
    "half of a pair as a text": ("\ud800", "half of a surrogate pair"),
    "not UTF-8": (b'{"a": "\xff"}', "it is not UTF-8: invalid start byte at byte 7"),
    "cut": ('{"a": ', "Expecting value: line 1 column 7"),
    "empty": ("", "Expecting value"),
}
OURS_REFUSED = {
    "65 bits": ('{"bytes": ' + str(LARGEST_INTEGER + 1) + "}", "bytes: an integer of 19 digits; the limit is 64 bits"),
    "NaN": ('{"value": NaN}', "value: NaN is not a number of JSON"),
    "-Infinity": ("[-Infinity]", "-Infinity is not a number of JSON"),
    "1e999": ('{"value": -1e999}', "value: a number beyond the range of 64 bits"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("ours", [True, False])
def test_what_exceeds_a_bound_is_one_kind_of_error(name: str, ours: bool) -> None:
    raw, words = REFUSED[name]
    with pytest.raises(MalformedJsonError, match=words):
        parse_json(raw, ours=ours)


@pytest.mark.parametrize("name", OURS_REFUSED)
def test_files_of_others_may_have_what_ours_have_not(name: str) -> None:
    raw, words = OURS_REFUSED[name]
    with pytest.raises(MalformedJsonError, match=words):
        parse_json(raw)
    parse_json(raw, ours=False)


def test_the_bounds_themselves_are_read() -> None:
    assert parse_json(nested(DEPTH_LIMIT)) == json.loads(nested(DEPTH_LIMIT))
    assert parse_json(f"[{'[], ' * 500}[]]") == [[]] * 501
    assert parse_json('"' + "[" * 500 + '"') == "[" * 500
    assert parse_json(str(LARGEST_INTEGER)) == LARGEST_INTEGER
    assert parse_json("1" + "0" * 30, ours=False) == 10**30  # transformers' model_max_length
    assert parse_json(r'"\ud83d\ude00"') == "\U0001f600"


class _Box(BaseModel):
    sides: list[int]


def test_a_model_is_read_or_the_key_is_named() -> None:
    assert parse_model(_Box, b'{"sides": [1, 2]}') == _Box(sides=[1, 2])
    with pytest.raises(MalformedJsonError, match=r"sides\.1: Input should be a valid integer"):
        parse_model(_Box, b'{"sides": [1, "two"]}')
    with pytest.raises(MalformedJsonError, match="document: Input should be"):
        parse_model(_Box, b"[]")
