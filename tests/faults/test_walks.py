"""Every command, killed, interrupted, on a full disk and refused by the system, wherever it does something.

`make test` kills each at a sample of its points; `make test-all` (`FAULTS=all`) walks every point under every fault,
`FAULTS=distinct` those that leave something of their own (`effects.distinct`). How many there are is said at the end.
By hand: `python -m tests.faults`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from itertools import pairwise

import click
import pytest

from phipack.__main__ import cli
from tests.faults.commands import COMMANDS, UNWALKED
from tests.faults.effects import FAULTS, Point, chosen, distinct, thinned
from tests.faults.reading import HEAVY, READING
from tests.faults.walker import WHICH, Walk

linux = pytest.mark.skipif(sys.platform != "linux", reason="points are counted by a preloaded library")


@linux
@pytest.mark.parametrize("fault", FAULTS if WHICH != "sample" else FAULTS[:1])
@pytest.mark.parametrize("command", [name for name, one in COMMANDS.items() if one.limit or WHICH != "sample"])
def test_nothing_is_lost_wherever_it_ends(
    walk: Walk, command: str, fault: str, record_property: Callable[[str, object], None]
) -> None:
    found = walk(command, fault)
    record_property("walked", f"{command}, {fault}: {found['walked']} of {found['felt']} points")
    assert not found["problems"], f"at {len(found['problems'])} points:\n" + "\n\n".join(found["problems"][:3])


@linux
def test_what_reads_changes_nothing(walk: Walk) -> None:
    """No file is made, changed or removed, whatever is opened."""
    assert walk(None) == {name: [] for name in READING}


def test_every_command_is_walked_or_reads() -> None:
    """A new command must be put into one of the lists."""
    walked = {command.of for command in COMMANDS.values()}
    known = [*walked, *UNWALKED, *READING, *HEAVY]
    assert sorted(known) == sorted(_commands(cli, ""))
    assert all(UNWALKED.values())
    assert all(HEAVY.values())


def _commands(command: click.Command, name: str) -> Iterator[str]:
    if not isinstance(command, click.Group):
        yield name
        return
    context = click.Context(command)
    for part in command.list_commands(context):
        found = command.get_command(context, part)
        assert found is not None
        yield from _commands(found, f"{name} {part}".strip())


def test_a_sample_has_both_ends_and_what_settles() -> None:
    points = [Point(n, "rename" if n % 40 == 0 else "pwrite", "") for n in range(1, 201)]
    assert chosen(points, "kill", 200) == points
    numbers = [point.number for point in chosen(points, "kill", 20)]
    assert len(set(numbers)) == 20
    assert {1, 200, 40, 80, 120, 160} <= set(numbers)
    assert max(b - a for a, b in pairwise(numbers)) < 30
    assert [point.number for point in chosen(points, "interrupt", 2)] == [1, 200]
    assert all(point.call == "pwrite" for point in chosen(points, "full", 200))


def test_of_points_in_a_row_at_one_place_both_ends_are_distinct() -> None:
    rows = [("create", "a"), *[("pwrite", "db")] * 4, ("write", "staging/1-23.new"), ("write", "staging/4-56.new")]
    points = [Point(number, *row) for number, row in enumerate(rows, start=1)]
    assert [point.number for point in distinct(points)] == [1, 2, 5, 6, 7]


def test_of_more_points_than_asked_for_every_nth_is_walked_and_the_last() -> None:
    points = [Point(number, "pwrite", "db") for number in range(1, 11)]
    assert thinned(points, None) == thinned(points, 10) == points
    assert [point.number for point in thinned(points, 4)] == [1, 4, 7, 10]
    assert [point.number for point in thinned(points, 9)] == [1, 3, 5, 7, 9, 10]
