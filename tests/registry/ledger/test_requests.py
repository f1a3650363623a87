"""How many requests a move makes of a tracking server: what promoters wait for when many work at once."""

from __future__ import annotations

import collections
from collections.abc import Iterator
from pathlib import Path

import pytest

from devtools.bundles import make_bundle, make_evidence
from devtools.mlflow_requests import counting_requests
from registry.ledger.lease import Timing
from registry.ledger.ledger import Ledger
from registry.ledger.reader import resolve_in
from registry.ledger.registration import Registration
from registry.promotion import promote
from targets.references import Reference, Version
from tests.support.databases import SERVER, Databases, KeptRegistry, keep_registry

DATABASES = (SERVER,)
CELLS = 5


@pytest.fixture(scope="module")
def kept(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> KeptRegistry:
    return keep_registry(databases, tmp_path_factory.mktemp("two"), register)


@pytest.fixture
def registered(databases: Databases, kept: KeptRegistry, tmp_path: Path) -> Ledger:
    """What `register` makes."""
    return kept.again(databases, tmp_path / "home")


@pytest.fixture
def requests() -> Iterator[collections.Counter[str]]:
    """The requests of MLflow's client, by method and path."""
    with counting_requests() as made:
        yield made


def test_a_promotion_makes_four_requests_a_cell_and_few_more(
    registered: Ledger, requests: collections.Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four: an alias is set where it is, as MLflow answers whether it may be set in no other way, and then where it is
    to be; and evidence is read, which its client looks for before. Evidence in a store, not on the server, costs none.

    A move that takes more than five seconds, on a busy machine, also asks whether it still holds its lease.
    """
    monkeypatch.setattr(Ledger, "timing", Timing(beat_seconds=600, asked_seconds=600, fresh_seconds=600))
    promote(registered, Reference.parse("phi:1.0.0"), "production", who="ann")
    requests.clear()
    move = promote(registered, Reference.parse("phi:1.1.0"), "production", who="ann")
    assert len(move.cells) == CELLS
    assert requests["POST registered-models/alias"] == 2 * CELLS
    assert sum(made for name, made in requests.items() if name.startswith("GET artifacts")) == 2 * CELLS
    assert requests.total() - 4 * CELLS <= 11, requests


def test_resolving_a_channel_reads_no_other_rows(registered: Ledger, requests: collections.Counter[str]) -> None:
    for number in range(CELLS):
        registered.point(f"phi.cell-{number}", "production", 2)
        registered.point(f"phi.cell-{number}", "staging", 1)
    for reference, made in {
        "phi:production": {"registered-models/search": 1},
        "phi:production@cell-1": {"registered-models/search": 1},
        "phi:staging": {"registered-models/search": 1, "model-versions/search": 1},
        "phi:staging@cell-1": {"registered-models/search": 1, "registered-models/alias": 1},
    }.items():
        requests.clear()
        assert len(resolve_in(registered, Reference.parse(reference))) == (1 if "@" in reference else CELLS)
        assert requests == {f"GET {name}": count for name, count in made.items()}


def register(ledger: Ledger, folder: Path) -> None:
    """Register two releases."""
    for release in ("1.0.0", "1.1.0"):
        bundle = make_bundle(folder / release, {"model.gguf": release.encode()})
        ledger.store.add_bundle(bundle)
        for number in range(CELLS):
            cell = f"cell-{number}"
            evidence = make_evidence(bundle, target=cell)
            ledger.register(Registration("phi", Version.parse(release), cell, bundle.manifest, evidence))
