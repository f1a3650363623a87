"""The points of a process's life where it may die or be refused, counted and hit by `effects.c`.

| fault | at point k |
|---|---|
| kill | SIGKILL |
| interrupt | SIGINT, then it goes on |
| full | the disk is full, from here on: what needs space is refused; a write may get half of it down |
| refuse | this one call fails: an I/O error, or the connection is reset |
"""

from __future__ import annotations

import ctypes
import itertools
import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

Which = Literal["sample", "distinct", "all"]
Fault = Literal["kill", "interrupt", "full", "refuse"]
FAULTS: tuple[Fault, ...] = get_args(Fault)
_MODES = {"trace": 1, "kill": 2, "interrupt": 3, "full": 4, "refuse": 5}  # as effects.c numbers them
_DIGITS = re.compile(r"[0-9a-f]{6,}|[0-9]+")  # of digests, processes and random names
_GROWING = ("create", "write", "write half", "pwrite", "mkdir", "link")
_SETTLING = ("rename", "remove", "link")  # what others see, SQLite's commits among them, changes here


@dataclass(frozen=True)
class Point:
    """A call that changes something: its number in the run, and where it works."""

    number: int
    call: str
    place: str

    @property
    def on_network(self) -> bool:
        """True where it talks to a server rather than changing a folder."""
        return self.place == "network"

    def __str__(self) -> str:
        return f"point {self.number}, {self.call} {self.place}"


def compiled(folder: Path) -> Path:
    """Compile the library that is to be preloaded."""
    source, library = Path(__file__).with_name("effects.c"), folder / "effects.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", library, source, "-ldl"], check=True)
    return library


def arm(fault: Fault, point: int, folder: Path) -> None:
    """From here on count what this process does to a folder and the network, and hit it at a point."""
    ctypes.CDLL(os.environ["LD_PRELOAD"]).effects_arm(_MODES[fault], ctypes.c_long(point), -1, str(folder).encode())


def disarm() -> None:
    """Count nothing from here on: for the process that a command is tried with."""
    ctypes.CDLL(os.environ["LD_PRELOAD"]).effects_arm(0, ctypes.c_long(0), -1, b"")


def trace(into: Path, folder: Path) -> None:
    """From here on write every point to a file outside the folder."""
    handle = os.open(into, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
    library = ctypes.CDLL(os.environ["LD_PRELOAD"])
    library.effects_arm(_MODES["trace"], ctypes.c_long(0), handle, str(folder).encode())


def read_trace(path: Path, folder: Path) -> list[Point]:
    """Read the points of a traced run, in order."""
    lines = [line.split("\t") for line in path.read_text().splitlines()]
    return [Point(n, call, place.removeprefix(f"{folder}/")) for n, (call, place) in enumerate(lines, start=1)]


def felt(points: Sequence[Point], fault: Fault) -> list[Point]:
    """Return the points that a fault can hit."""
    if fault == "full":
        return [point for point in points if point.call in _GROWING]
    return [point for point in points if fault != "refuse" or point.call != "write half"]


def distinct(points: Sequence[Point]) -> list[Point]:
    """Return the first and the last of points in a row that do the same at the same place.

    Where SQLite writes page after page, or a file is written piece by piece, those between leave what these leave.
    """
    kept = []
    for _, same in itertools.groupby(points, key=lambda point: (point.call, _DIGITS.sub("", point.place))):
        row = list(same)
        kept += row[:1] if len(row) == 1 else [row[0], row[-1]]
    return kept


def thinned(points: Sequence[Point], most: int | None) -> Sequence[Point]:
    """Return every n-th point, the last among them: n is the least that leaves `most` points, or one more."""
    if most is None or len(points) <= most:
        return points
    step = -(-len(points) // most)
    return [*points[:-1:step], points[-1]]


def chosen(points: Sequence[Point], fault: Fault, limit: int) -> list[Point]:
    """The points to walk: all, where the limit allows it; else the first, the last and an even sample of the others.

    Of what a kill meets, at least half is what settles something: renames, removals, and so SQLite's commits.
    """
    points = felt(points, fault)
    if len(points) <= limit:
        return list(points)
    inner = points[1:-1]
    settling = [point for point in inner if fault == "kill" and point.call in _SETTLING]
    others = [point for point in inner if point not in settling]
    half = min(len(settling), max((limit - 2) // 2, limit - 2 - len(others)))
    kept = [points[0], points[-1], *_evenly(settling, half), *_evenly(others, limit - 2 - half)]
    return sorted(kept, key=lambda point: point.number)


def _evenly(points: Sequence[Point], count: int) -> list[Point]:
    return [points[(2 * index + 1) * len(points) // (2 * count)] for index in range(min(count, len(points)))]
