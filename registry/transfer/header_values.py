"""Numbers and dates in HTTP headers that a server sent: the value, or None for anything else. Nothing raises."""

from __future__ import annotations

import email.utils
import re
from datetime import UTC, datetime

_NUMBER = re.compile(r"[0-9]{1,18}", re.ASCII)  # RFC 9110's 1*DIGIT, as far as 64 bits hold it


def whole_number(value: str | None) -> int | None:
    """Return a number of bytes or seconds; None where it is missing, or not a number of at most 18 digits."""
    text = (value or "").strip(" \t")
    return int(text) if _NUMBER.fullmatch(text) else None


def http_date(value: str | None) -> datetime | None:
    """Return a date of RFC 9110 (5.6.7) in UTC; None where it is missing, or no date that a calendar has."""
    try:
        found = email.utils.parsedate_to_datetime(value or "")
        # Without a zone, or with one that is unknown, a date of HTTP is in UTC.
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (TypeError, ValueError, OverflowError, IndexError):
        return None
