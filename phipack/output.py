"""The one place that prints. Results go to standard output, progress and errors to standard error.

Three modes: for people (tables), `--json` (one document on standard output), `--quiet` (errors alone).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from targets.progress import Event, Notice

Mode = Literal["human", "json", "quiet"]
JSON = dict[str, "JSON"] | list["JSON"] | str | int | float | bool | None
_REDRAW_SECONDS = 0.1


@dataclass
class Output:
    """Where commands put what they found. `mode` is set once, by the command line's options."""

    mode: Mode = "human"
    _line_open: bool = False
    _last_step: str = ""
    _steps: set[str] = field(default_factory=set)
    _last_drawn: float = 0.0

    def result(self, data: object, text: str) -> None:
        """Print a command's result: `data` as JSON, or `text` for people."""
        self._end_line()
        if self.mode == "json":
            print(json.dumps(data, indent=2, ensure_ascii=False))  # noqa: T201
        elif self.mode == "human" and text:
            print(text, flush=True)  # noqa: T201

    def note(self, text: str) -> None:
        """Tell a person what is going on; silent in the other modes."""
        if self.mode == "human":
            self._end_line()
            print(text, file=sys.stderr, flush=True)  # noqa: T201

    def on_progress(self, event: Event) -> None:
        """Show how far a step is: redrawn in place on a terminal, elsewhere one line a step and subject."""
        if self.mode != "human":
            return
        if isinstance(event, Notice):
            self.note(event.text)
            return
        what = f"{event.subject}: {event.name}" if event.subject else event.name
        if not sys.stderr.isatty():
            if what not in self._steps:
                self._steps.add(what)
                print(f"  {what}", file=sys.stderr, flush=True)  # noqa: T201
            return
        now = time.monotonic()
        if event.done < event.total and what == self._last_step and now - self._last_drawn < _REDRAW_SECONDS:
            return
        self._last_step, self._last_drawn = what, now
        share = f"{100 * event.done // event.total:3d} %" if event.total else ""
        print(f"\r\033[K  {what} {share}", end="", file=sys.stderr, flush=True)  # noqa: T201
        self._line_open = True

    def error(self, text: str) -> None:
        """Print an error, in every mode."""
        self._end_line()
        print(f"phipack: {text}", file=sys.stderr, flush=True)  # noqa: T201

    def _end_line(self) -> None:
        if self._line_open:
            print("\r\033[K", end="", file=sys.stderr)  # noqa: T201
            self._line_open = False


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Lay out rows under columns. A column whose cells all start like numbers is set flush right."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [
        max(len(column), *(len(row[i]) for row in cells)) if cells else len(column) for i, column in enumerate(columns)
    ]
    right = [bool(cells) and all(_numeric(row[i]) for row in cells) for i in range(len(columns))]

    def line(row: Sequence[str]) -> str:
        parts = (cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(row, widths, right, strict=True))
        return "  ".join(parts).rstrip()

    return "\n".join([line(columns), line(["-" * width for width in widths]), *map(line, cells)])


def size(count: float) -> str:
    """Give bytes in the decimal units that stores and phones use: 2.18 GB."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(count) >= factor:
            return f"{count / factor:.3g} {unit}" if count / factor < 1000 else f"{count / factor:.0f} {unit}"
    return f"{count:.0f} B"


def share(value: float) -> str:
    """Give a share in per cent."""
    return f"{100 * value:.2f} %"


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def _numeric(cell: str) -> bool:
    return cell == "-" or cell[:1].isdigit() or cell[:2].lstrip("-")[:1].isdigit()
