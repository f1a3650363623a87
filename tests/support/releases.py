"""Releases of small bundles in several cells."""

from __future__ import annotations

from pathlib import Path

from devtools.bundles import make_bundle, make_evidence
from registry.bundle.folder import Bundle
from registry.ledger.channel_moves import Move
from registry.ledger.ledger import Ledger
from registry.ledger.reader import open_reader
from registry.ledger.registration import Registration
from registry.promotion import promote, rollback
from targets.references import Reference, Version
from tests.support.registrations import client_of

CELLS = ("galaxy-s24", "iphone-15", "pixel-9")


def add(ledger: Ledger, folder: Path, version: str, cells: tuple[str, ...] = CELLS, kl_mean: float = 0.01) -> Bundle:
    bundle = make_bundle(folder / version, {"model.gguf": version.encode()})
    ledger.store.add_bundle(bundle)
    for cell in cells:
        evidence = make_evidence(bundle, target=cell, kl_mean=kl_mean)
        ledger.register(Registration("phi", Version.parse(version), cell, bundle.manifest, evidence))
    return bundle


def to(ledger: Ledger, reference: str, channel: str = "production", why: str = "") -> Move:
    return promote(ledger, Reference.parse(reference), channel, who="ann@ci", why=why)


def back(ledger: Ledger, channel: str = "production") -> Move:
    return rollback(ledger, "phi", channel, who="bob@ci", why="too slow")


def standing(ledger: Ledger, channel: str = "production") -> dict[str, str]:
    """Where a channel stands, by both roads and plain MLflow."""
    rows = {row.cell: str(row.release) for row in ledger.versions("phi") if channel in row.channels}
    fast = open_reader(ledger.uri, ledger.store).versions("phi")
    assert {row.cell: str(row.release) for row in fast if channel in row.channels} == rows
    for cell, release in rows.items():
        row = client_of(ledger).get_model_version_by_alias(f"phi.{cell}", channel)
        assert row.tags["phipack.release"] == release
    return rows


def all_at(release: str) -> dict[str, str]:
    return dict.fromkeys(CELLS, release)
