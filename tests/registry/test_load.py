"""Promoters and fetchers in processes of their own, all at once: the small brother of `benchmarks/load.py`."""

from __future__ import annotations

import collections
from pathlib import Path

from devtools.load import MODELS, Place, lost_updates, release_all, run
from registry.ledger.channel_moves import Move
from registry.promotion import history
from registry.store.s3 import S3Store
from tests.support.databases import EVERYWHERE, SQLITE, Databases

DATABASES = tuple(kind for kind in EVERYWHERE if kind != SQLITE)


def test_many_promoters_and_fetchers_lose_nothing(databases: Databases, s3_store: S3Store, tmp_path: Path) -> None:
    place = Place(databases.fresh(tmp_path / "home"), s3_store.uri)
    ledger = release_all(place, tmp_path / "bundles")
    records = run(place, promoters=4, fetchers=2, seconds=4, processes=2).records
    errors = {error for *_, error in records if error}
    assert all("no earlier promotion to roll back to" in error for error in errors), errors
    done = collections.Counter(what for what, _, error in records if not error)
    assert done["promote"]
    assert done["fetch"]
    assert len(records) >= 6  # each had its turn
    assert lost_updates(ledger) == []
    moves: list[Move] = [move for model in MODELS for move in history(ledger, model)]
    assert {move.state for move in moves} == {"done"}
