"""Progress of long work: one callback for builds, validations, uploads, downloads and releases.

A function that takes long has a parameter `on_progress: Progress = silent`. It calls it from any thread, as often as it
likes: the receiver decides how often to draw. A receiver must be quick. An exception that it raises ends the work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

Unit = Literal["bytes", "tensors", "tokens", "layers", "files", "cells", "jobs", "steps", "prompts"]


@dataclass(frozen=True)
class Step:
    """How far one step has come.

    `name`: the step, such as `download` or `quantize`. `subject`: what the step works on, such as a cell or a file;
    empty if there is only one. `done` of `total` in `unit`; a `total` of 0 means that it is not known.
    """

    name: str
    done: int
    total: int
    unit: Unit = "steps"
    subject: str = ""


@dataclass(frozen=True)
class Notice:
    """A sentence that a person should see during the work, such as who holds the lock that it waits for."""

    text: str


@dataclass(frozen=True)
class Phase:
    """One kind of work that begins or ends in the thread that reports it. What a thread begins within it ends first.

    Many times a second: a phase is what `--profile` sums up, not what a person watches. `subject`: as a step's.
    `worked_bytes`: what the work reads or writes, where that is counted.
    """

    name: str
    begins: bool
    subject: str = ""
    worked_bytes: int = 0


WAIT = "wait"  # the phase in which this process does nothing, because another one has to be done first
Event = Step | Notice | Phase
Progress = Callable[[Event], None]


def silent(_event: Event) -> None:
    """Ignore the event."""


@contextmanager
def phase(on_progress: Progress, name: str, subject: str = "", worked_bytes: int = 0) -> Iterator[None]:
    """Report the block as a phase."""
    on_progress(Phase(name, True, subject, worked_bytes))
    try:
        yield
    finally:
        on_progress(Phase(name, False, subject))


def notices_once(on_progress: Progress) -> Progress:
    """Return a receiver that passes events to `on_progress`, each notice's text once: for what several works say."""
    said: set[str] = set()

    def receive(event: Event) -> None:
        if isinstance(event, Notice):
            if event.text in said:
                return
            said.add(event.text)
        on_progress(event)

    return receive


def with_subject(on_progress: Progress, subject: str) -> Progress:
    """Return a receiver that passes events to `on_progress`, with the subject of steps and phases replaced."""

    def receive(event: Event) -> None:
        on_progress(event if isinstance(event, Notice) else replace(event, subject=subject))

    return receive
