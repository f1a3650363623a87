"""How many cases of one kind the tests take: in `make test` those that differ in kind, with `CASES=all` every one.

A test or a parameter that is marked as `every_case` is left out of `make test`: what it tries is met there in another
format, in another test, or together with something else.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any

import pytest

EVERY_CASE = os.environ.get("CASES") == "all"


def cases(every: Mapping[str, Any], further: Collection[str]) -> list[Any]:
    """Return parameters of these names and values, of which `further` are for `CASES=all`."""
    assert set(further) < set(every)
    return [
        pytest.param(
            *(case if isinstance(case, tuple) else (case,)),
            id=name,
            marks=pytest.mark.every_case if name in further else (),
        )
        for name, case in every.items()
    ]


def examples(count: int) -> int:
    """Return how many examples a property is tried with: a third in `make test`, the same ones in every run."""
    return count if EVERY_CASE else count // 3
