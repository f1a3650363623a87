"""Progress of long work: one callback for builds, validations, uploads, downloads and releases.

Whoever does long work takes `on_progress: Progress = silent` and calls it from any thread, as often as it likes; how
often something is drawn is the receiver's choice. A receiver must be quick, and what it raises ends the work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

Unit = Literal["bytes", "tensors", "tokens", "layers", "files", "cells", "steps"]


@dataclass(frozen=True)
class Step:
    """How far one step is.

    `name`: the step, such as `download` or `quantize`; `subject`: what it works on, such as a cell or a file, empty
    where there is only one. `done` of `total` in `unit`; a `total` of 0 means that it is not known.
    """

    name: str
    done: int
    total: int
    unit: Unit = "steps"
    subject: str = ""


@dataclass(frozen=True)
class Notice:
    """A sentence that a person should see while the work goes on, such as whose lock it waits for."""

    text: str


Event = Step | Notice
Progress = Callable[[Event], None]


def silent(_event: Event) -> None:
    """Report to nobody."""


def with_subject(on_progress: Progress, subject: str) -> Progress:
    """Return a receiver that hands events on to `on_progress`, steps with `subject` in the place of their own."""

    def receive(event: Event) -> None:
        on_progress(replace(event, subject=subject) if isinstance(event, Step) else event)

    return receive
