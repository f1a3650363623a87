"""Progress on standard error: bars on a terminal (rich's, imported when the first is drawn), lines elsewhere.

A step is shown by its subject: cells that are built together have a bar each, which is cleared when its step ends.
Where there is no terminal, each step of each subject is one line, written when it starts.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from targets.formatting import duration, rate, size
from targets.printable import one_line, printable
from targets.progress import Step

if TYPE_CHECKING:
    from rich.progress import Progress, Task, TaskID

_REDRAW_SECONDS = 0.1
_NARROW = 80
_BAR_WIDTH, _NARROW_BAR_WIDTH = 24, 8
_TITLE, _NARROW_TITLE = 36, 24


class Display(Protocol):
    """Shows steps. Its methods are called by one thread at a time, and don't fail where standard error is gone."""

    def show(self, step: Step) -> None:
        """Show how far a step is."""
        ...

    def say(self, text: str) -> None:
        """Print a line above what is shown."""
        ...

    def close(self) -> None:
        """Clear what is shown."""
        ...


def open_display() -> Display:
    """Return bars for a terminal that can redraw lines, else lines."""
    terminal = sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
    return Bars() if terminal else Lines()


@dataclass
class Lines:
    """One line for each step of each subject."""

    _seen: set[tuple[str, str]] = field(default_factory=set)

    def show(self, step: Step) -> None:
        """Write a line where the step is new."""
        key = (step.subject, step.name)
        if key not in self._seen:
            self._seen.add(key)
            of = f" ({size(step.total)})" if step.unit == "bytes" and step.total else ""
            self.say(f"  {title(step)}{of}")

    def say(self, text: str) -> None:
        """Write a line."""
        if sys.stderr is not None:
            try:
                sys.stderr.write(printable(text) + "\n")
                sys.stderr.flush()
            except (OSError, ValueError):  # nobody reads it any more
                return

    def close(self) -> None:
        """Leave the lines as they are."""


class Bars:
    """One bar for each subject: what it does, how far it is, how fast, and the time left. Drawn by who reports."""

    def __init__(self) -> None:
        from rich.console import Console

        console = Console(stderr=True, highlight=False)
        self._progress: Progress = _progress(console)
        self._width = _NARROW_TITLE if console.width < _NARROW else _TITLE
        self._tasks: dict[str, tuple[TaskID, str]] = {}
        self._drawn: dict[str, float] = {}
        self._started = False

    def show(self, step: Step) -> None:
        """Redraw a subject's bar, at most ten times a second; at once where a step starts or ends."""
        known = self._tasks.get(step.subject)
        starts, ends = known is None or known[1] != step.name, 0 < step.total <= step.done
        now = time.monotonic()
        if not starts and not ends and now - self._drawn[step.subject] < _REDRAW_SECONDS:
            return
        self._drawn[step.subject] = now
        try:
            self._draw(step, known, starts=starts, ends=ends)
        except OSError:  # the terminal is gone
            return

    def say(self, text: str) -> None:
        """Print above the bars."""
        from rich.text import Text

        try:
            self._progress.console.print(Text(printable(text)), soft_wrap=True)
        except OSError:
            return

    def close(self) -> None:
        """Clear the bars."""
        if self._started:
            try:
                self._progress.stop()
            except OSError:
                return

    def _draw(self, step: Step, known: tuple[TaskID, str] | None, *, starts: bool, ends: bool) -> None:
        total = step.total or None
        if known is None:
            task = self._progress.add_task(title(step, self._width), total=total, completed=step.done, unit=step.unit)
        elif starts:
            task = known[0]
            self._progress.reset(
                task,
                total=total,
                completed=step.done,
                description=title(step, self._width),
                visible=True,
                unit=step.unit,
            )
        else:
            task = known[0]
            self._progress.update(task, total=total, completed=step.done)
        self._tasks[step.subject] = (task, step.name)
        if ends:
            self._progress.update(task, visible=False)
        if not self._started:
            self._progress.start()
            self._started = True
        self._progress.refresh()


def title(step: Step, width: int | None = None) -> str:
    """Return what is going on: `iphone-15: quantize`. In a narrow place the subject is shortened, not the step."""
    subject = one_line(step.subject)  # such as a file's path in a manifest
    room = len(subject) if width is None else max(width - len(step.name) - 2, 4)
    subject = subject if len(subject) <= room else f"{subject[: room - 1]}…"
    return f"{subject}: {step.name}" if subject else step.name


@dataclass
class StepTimes:
    """When each step of each subject started, for `--verbose` and the log."""

    _started: dict[tuple[str, str], float] = field(default_factory=dict)
    _ended: set[tuple[str, str]] = field(default_factory=set)

    def lines(self, step: Step) -> Iterator[str]:
        """Return a line where a step ends, with its duration."""
        key = (step.subject, step.name)
        if not 0 < step.total <= step.done:
            self._ended.discard(key)
            self._started.setdefault(key, time.monotonic())
        elif key not in self._ended:
            self._ended.add(key)
            now = time.monotonic()
            took = duration(now - self._started.pop(key, now))
            amount = "done" if step.unit == "steps" else _amount(step.done, None, step.unit)
            yield f"  {title(step)}: {amount} in {took}"


def _progress(console: object) -> Progress:
    """Set up rich's progress: its columns, drawn only when we say so, without a thread of its own."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn
    from rich.table import Column
    from rich.text import Text

    class Title(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(task.description, overflow="ellipsis", no_wrap=True)

    class Facts(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(_facts(task), no_wrap=True, style="progress.remaining")

    assert isinstance(console, Console)
    width = _NARROW_BAR_WIDTH if console.width < _NARROW else _BAR_WIDTH
    return Progress(
        Title(table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis", min_width=12)),
        BarColumn(bar_width=width),
        Facts(table_column=Column(no_wrap=True, justify="right")),
        console=console,
        auto_refresh=False,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
        expand=True,
    )


def _facts(task: Task) -> str:
    """Return `1.2/2.4 GB 35 MB/s 0:34` for bytes, `12/224 layers 0:34` for others."""
    unit = str(task.fields["unit"])
    single = task.total == 1 and unit == "steps"
    facts = [] if single else [_amount(task.completed, task.total, unit)]
    if unit == "bytes" and task.speed:
        facts.append(rate(task.speed))
    if task.time_remaining is not None and not task.finished:
        minutes, seconds = divmod(round(task.time_remaining), 60)
        hours, minutes = divmod(minutes, 60)
        facts.append(f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}")
    return "  ".join(facts)


def _amount(done: float, total: float | None, unit: str) -> str:
    if unit != "bytes":
        of = "" if total is None else f"/{total:.0f}"
        return f"{done:.0f}{of} {unit}"
    if total is None:
        return size(done)
    whole, part = size(total).split(" "), size(done).split(" ")
    return f"{part[0]}/{whole[0]} {whole[1]}" if part[1] == whole[1] else f"{' '.join(part)}/{' '.join(whole)}"
