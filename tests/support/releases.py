"""Releases of small bundles in several cells."""

from __future__ import annotations

from pathlib import Path

from devtools.bundles import make_bundle, make_evidence
from registry.bundle.folder import Bundle
from registry.ledger.ledger import Ledger
from registry.ledger.registration import Registration
from targets.references import Version

CELLS = ("galaxy-s24", "iphone-15", "pixel-9")


def add(ledger: Ledger, folder: Path, version: str, cells: tuple[str, ...] = CELLS, kl_mean: float = 0.01) -> Bundle:
    bundle = make_bundle(folder / version, {"model.gguf": version.encode()})
    ledger.store.add_bundle(bundle)
    for cell in cells:
        evidence = make_evidence(bundle, target=cell, kl_mean=kl_mean)
        ledger.register(Registration("phi", Version.parse(version), cell, bundle.manifest, evidence))
    return bundle
