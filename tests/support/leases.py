"""Promotions at the same time as the holder of a lease."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from registry.ledger.lease import Check, Timing
from registry.ledger.ledger import Ledger
from registry.promotion import promote
from targets.references import Reference
from tests.support.registrations import client_of


def to(ledger: Ledger, version: str, who: str = "ann") -> None:
    promote(ledger, Reference.parse(f"phi:{version}"), "production", who=who)


def standing(ledger: Ledger) -> dict[str, str]:
    return {row.cell: str(row.release) for row in ledger.versions("phi") if "production" in row.channels}


def lease_tags(ledger: Ledger) -> list[str]:
    tags = client_of(ledger).get_experiment_by_name("phi").tags
    return [name for name in tags if name.startswith("phipack.lease.")]


class OnAServer(Ledger):
    """A ledger without the lock of a local file, as on a server: it takes the lease, in MLflow's own tags."""

    timing: ClassVar[Timing] = Timing(beat_seconds=0.2, fresh_seconds=3, stale_seconds=4, wait_seconds=60)

    @contextmanager
    def exclusive(self, who: str | None = None) -> Iterator[Check | None]:
        yield None


CELLS = ("iphone-15", "pixel-9")
