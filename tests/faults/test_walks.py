"""Every command, killed, interrupted, on a full disk and refused by the system, wherever it does something.

`make test` kills each at a sample of its points; `make test-all` (`FAULTS=all`) walks every point under every fault.
How many there are is said at the end.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import pairwise

import pytest

from tests.faults.commands import COMMANDS
from tests.faults.effects import FAULTS, Point, chosen
from tests.faults.walker import EVERY, Walk

linux = pytest.mark.skipif(sys.platform != "linux", reason="points are counted by a preloaded library")


@linux
@pytest.mark.parametrize("fault", FAULTS if EVERY else FAULTS[:1])
@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_is_lost_wherever_it_ends(
    walk: Walk, command: str, fault: str, record_property: Callable[[str, object], None]
) -> None:
    found = walk(command, fault)
    record_property("walked", f"{command}, {fault}: {found['walked']} of {found['points']} points")
    assert not found["problems"], f"at {len(found['problems'])} points:\n" + "\n\n".join(found["problems"][:3])


def test_a_sample_has_both_ends_and_what_settles() -> None:
    points = [Point(n, "rename" if n % 40 == 0 else "pwrite", "") for n in range(1, 201)]
    assert chosen(points, "kill", 200) == points
    numbers = [point.number for point in chosen(points, "kill", 20)]
    assert len(set(numbers)) == 20
    assert {1, 200, 40, 80, 120, 160} <= set(numbers)
    assert max(b - a for a, b in pairwise(numbers)) < 30
    assert [point.number for point in chosen(points, "interrupt", 2)] == [1, 200]
    assert all(point.call == "pwrite" for point in chosen(points, "full", 200))
