"""Progress of long work: one callback for builds, validations, uploads, downloads and releases.

A function that takes long has a parameter `on_progress: Progress = silent`. It calls it from any thread, as often as it
likes: the receiver decides how often to draw. A receiver must be quick. An exception that it raises ends the work.
"""

from __future__ import annotations

from collections.abc import Callable
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


Event = Step | Notice
Progress = Callable[[Event], None]


def silent(_event: Event) -> None:
    """Ignore the event."""


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
    """Return a receiver that passes events to `on_progress`, with the subject of each step replaced by `subject`."""

    def receive(event: Event) -> None:
        on_progress(replace(event, subject=subject) if isinstance(event, Step) else event)

    return receive
