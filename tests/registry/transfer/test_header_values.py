"""Headers that a server sent: a value, or None; never an error."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.transfer.header_values import http_date, whole_number


@pytest.mark.parametrize(
    "written", ["", None, "²", "٣", "-1", "+1", "1.0", "0x10", "1_000", "1 2", "1" * 19, "9" * 5000]
)
def test_what_is_no_number_is_none(written: str | None) -> None:
    assert whole_number(written) is None


@pytest.mark.parametrize(("written", "number"), [("0", 0), (" 12\t", 12), ("007", 7), ("9" * 18, 10**18 - 1)])
def test_numbers(written: str, number: int) -> None:
    assert whole_number(written) == number


@pytest.mark.parametrize(
    "written",
    [
        None,
        "",
        "soon",
        "Mon, 01 Jan 99999999999999999999999 00:00:00 +0000",  # an OverflowError of Python's own
        "Mon, 01 Jan 2024 00:00:00 +9999999999999999999999999",
        "Mon, 01 Jan 2024 00:00:00 +9999",
        "Mon, 32 Jan 2024 00:00:00 GMT",
        "²",
    ],
)
def test_what_no_calendar_has_is_none(written: str | None) -> None:
    assert http_date(written) is None


def test_dates() -> None:
    assert http_date("Sun, 06 Nov 1994 08:49:37 GMT") == datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC)
    assert http_date("Sunday, 06-Nov-94 08:49:37 GMT") == datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC)
    assert http_date("Sun Nov  6 08:49:37 1994") == datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC)


@given(when=st.datetimes(datetime(1970, 1, 2), datetime(2200, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001 - the zone is added
def test_what_a_server_writes_is_read(when: datetime) -> None:
    found = http_date(format_datetime(when, usegmt=True))
    assert found is not None
    assert abs(found - when) < timedelta(seconds=1)


@given(written=st.text())
def test_any_text_is_a_value_or_none(written: str) -> None:
    whole_number(written)
    http_date(written)
