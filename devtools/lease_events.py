"""Writes down what promoters do with the leases of models, and says what the time between two moves is made of."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

LOOK, TAKEN, BACK, RELEASED = "look", "taken", "back", "released"


@dataclass(frozen=True)
class Event:
    """Something that a process did with a model's lease, in seconds of the machine's monotonic clock.

    `what`: LOOK, who has it; TAKEN, or BACK after a try in vain; RELEASED.
    """

    experiment: str
    what: str
    begin: float
    end: float


@contextmanager
def recording_lease() -> Iterator[list[Event]]:
    """Yield the events of this process until the block ends, whichever thread causes them."""
    from registry.ledger import lease, mlflow_lease

    untyped: Any = lease
    tags: Any = mlflow_lease.ExperimentTags
    look, take, release = tags.read, untyped._take_alone, untyped._release  # noqa: SLF001
    events: list[Event] = []

    def timed(work: Callable[..., Any], experiment: str, name: Callable[[Any], str], *arguments: Any) -> Any:
        begin = time.monotonic()
        found = work(*arguments)
        events.append(Event(experiment, name(found), begin, time.monotonic()))
        return found

    tags.read = lambda one: timed(look, one.experiment_id, lambda _: LOOK, one)
    untyped._take_alone = lambda one, watch: timed(  # noqa: SLF001
        take, one.tags.experiment_id, lambda taken: TAKEN if taken else BACK, one, watch
    )
    untyped._release = lambda one, *more: timed(  # noqa: SLF001
        release, one.tags.experiment_id, lambda _: RELEASED, one, *more
    )
    try:
        yield events
    finally:
        tags.read, untyped._take_alone, untyped._release = look, take, release  # noqa: SLF001


def handovers(events: Sequence[Event]) -> Mapping[str, float]:
    """Return the mean seconds of each part of what lies between two releases of one lease.

    `idle`: it is free, and nobody looks. `looking`: from the look that finds it free to the try that succeeds.
    `taking`: that try. `moving`: what it is held for. `releasing`: until it is free again.
    """
    parts: dict[str, list[float]] = defaultdict(list)
    of_model: dict[str, list[Event]] = defaultdict(list)
    for event in sorted(events, key=lambda one: one.end):
        of_model[event.experiment].append(event)
    for mine in of_model.values():
        looks = [one for one in mine if one.what == LOOK]
        free = taken = None
        for event in mine:
            if event.what == TAKEN:
                if free is not None:
                    seen = max(free.end, min([event.begin, *(one.begin for one in looks if one.end > free.end)]))
                    parts["idle"].append(seen - free.end)
                    parts["looking"].append(max(0.0, event.begin - seen))
                    parts["taking"].append(event.end - max(event.begin, seen))
                taken = event
            elif event.what == RELEASED and taken is not None:
                parts["moving"].append(event.begin - taken.end)
                parts["releasing"].append(event.end - event.begin)
                free, taken = event, None
    return {name: statistics.fmean(seconds) for name, seconds in parts.items()}
