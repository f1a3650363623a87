"""Promoters and fetchers on one registry, in separate processes, and the checks of the registry afterwards."""

from __future__ import annotations

import collections
import hashlib
import multiprocessing
import os
import random
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from devtools.bundles import make_bundle, make_evidence
from devtools.lease_events import Event, recording_lease
from devtools.mlflow_requests import counting_requests
from registry.bundle.folder import verify
from registry.fetch import fetch_version
from registry.ledger.ledger import Ledger, open_ledger
from registry.ledger.reader import resolve_in
from registry.ledger.registration import Registration
from registry.promotion import history, promote, rollback
from registry.store.uris import open_store
from targets.errors import PhipackError
from targets.references import Reference, Version

MODELS = tuple(f"model-{number}" for number in range(4))
RELEASES = ("1.0.0", "1.1.0", "1.2.0")
CELLS = ("iphone-15", "pixel-9")
BUNDLE_BYTES = 2_000_000
_START_SECONDS = 300
Record = tuple[str, float, str]  # the action, its seconds, its error
Requests = dict[str, int]  # of MLflow, by method and path
Step = tuple[str, int]  # an action, and how many clients repeat it


@dataclass(frozen=True)
class Results:
    """What clients did: actions, requests by who made them (promoters or fetchers), and events of leases."""

    records: list[Record]
    requests: dict[str, collections.Counter[str]]
    events: list[Event]


@dataclass(frozen=True)
class Place:
    """The services under load: the URIs of a tracking server and of a store."""

    uri: str
    store: str

    def open(self) -> Ledger:
        """Return a new connection."""
        return open_ledger(self.uri, open_store(self.store))


def release_all(place: Place, folder: Path) -> Ledger:
    """Register all releases of all models, and promote the first to production."""
    ledger = place.open()
    for model in MODELS:
        for release in RELEASES:
            content = hashlib.shake_256(f"{model} {release}".encode()).digest(BUNDLE_BYTES)
            bundle = make_bundle(folder / model / release, {"model.gguf": content})
            ledger.store.add_bundle(bundle)
            for cell in CELLS:
                evidence = make_evidence(bundle, target=cell)
                ledger.register(Registration(model, Version.parse(release), cell, bundle.manifest, evidence))
        promote(ledger, Reference.parse(f"{model}:1.0.0"), "production", who="first")
    return ledger


class Worker:
    """Promoters and fetchers, each in a thread and with a connection of its own."""

    def __init__(self, place: Place, start: Barrier) -> None:
        self.place, self.start = place, start
        self.records: list[Record] = []
        self._own = threading.local()

    def ledger(self) -> Ledger:
        """The connection of the current thread."""
        if not hasattr(self._own, "ledger"):
            self._own.ledger = self.place.open()
        ledger: Ledger = self._own.ledger
        return ledger

    def move(self) -> str:
        """Promote a random release, or roll back."""
        model, who = random.choice(MODELS), f"promoter-{os.getpid()}-{threading.get_ident()}"
        if random.random() < 0.2:
            rollback(self.ledger(), model, "production", who=who)
            return "rollback"
        promote(self.ledger(), Reference.parse(f"{model}:{random.choice(RELEASES)}"), "production", who=who)
        return "promote"

    def fetch(self) -> str:
        """Fetch production's bundle of a random cell, and verify every byte again."""
        out = Path(tempfile.mkdtemp()) / "bundle"
        try:
            versions = resolve_in(self.ledger(), Reference.parse(f"{random.choice(MODELS)}@{random.choice(CELLS)}"))
            verify(fetch_version(versions[0], out)[0])
        finally:
            shutil.rmtree(out.parent)
        return "fetch"

    def run(self, step: Callable[[], str], what: str, seconds: float) -> None:
        """Connect, wait until all clients have, and repeat an action until the time is over."""
        self.ledger().mlflow.connect()
        self.start.wait(_START_SECONDS)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            began, error = time.monotonic(), ""
            try:
                what = step()
            except PhipackError as caught:
                error = f"{type(caught).__name__}: {caught.problem[:80]}"
            self.records.append((what, time.monotonic() - began, error))


def work(place: Place, step: Step, seconds: float, start: Barrier, results: multiprocessing.Queue[Any]) -> None:
    """Run some promoters, or some fetchers, in this process, at a lower priority than the servers have."""
    os.nice(10)
    worker, (what, count) = Worker(place, start), step
    action = worker.fetch if what == "fetch" else worker.move
    threads = [threading.Thread(target=worker.run, args=(action, what, seconds)) for _ in range(count)]
    with counting_requests() as requests, recording_lease() as events:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    results.put((what, worker.records, dict(requests), events))


def run(place: Place, promoters: int, fetchers: int, seconds: float, processes: int) -> Results:
    """Run all clients, half of the processes promoters and half of them fetchers, where there are both.

    All begin at one moment, when the last one has connected: importing MLflow takes each process 3 s of a processor.
    """
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[tuple[str, list[Record], Requests, list[Event]]] = context.Queue()
    roles = [(what, count) for what, count in (("promote", promoters), ("fetch", fetchers)) if count]
    steps = [(what, count * len(roles) // processes) for what, count in roles for _ in range(processes // len(roles))]
    start = context.Barrier(sum(count for _, count in steps))
    workers = [context.Process(target=work, args=(place, step, seconds, start, results)) for step in steps]
    for process in workers:
        process.start()
    found = Results([], {what: collections.Counter[str]() for what, _ in roles}, [])
    for _ in workers:
        what, records, requests, events = results.get()
        found.records.extend(records)
        found.events.extend(events)
        found.requests[what].update(requests)
    for process in workers:
        process.join()
    return found


def lost_updates(ledger: Ledger) -> list[str]:
    """Return the problems of all histories: moves that do not follow each other, and aliases unlike the last move."""
    problems = []
    for model in MODELS:
        current: dict[str, object] = {}
        moves = history(ledger, model)
        problems += [f"{model}: {move.title} is unfinished" for move in moves if move.state == "unfinished"]
        for move in reversed([one for one in moves if one.state == "done"]):
            for part in move.cells:
                if current.get(part.cell) != part.before:
                    problems.append(f"{model}.{part.cell}: {move.title} does not begin where the previous move ended")
                current[part.cell] = part.after
        for row in ledger.versions(model):
            last = current.get(row.cell)
            if ("production" in row.channels) != (getattr(last, "number", None) == row.number):
                problems.append(f"{row.reference}: the alias is not that of the last move")
    return problems
