"""Registrations of small bundles, and the registry as plain MLflow sees it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from devtools.bundles import make_bundle, make_evidence
from registry.bundle.folder import Bundle
from registry.ledger.ledger import Ledger, open_ledger
from registry.ledger.registration import Registration
from registry.store.folder import FolderStore
from targets.references import Version


def entry(bundle: Bundle, version: str = "1.0.0", cell: str = "iphone-15", **evidence: Any) -> Registration:
    return Registration("phi", Version.parse(version), cell, bundle.manifest, make_evidence(bundle, **evidence))


def register_cells(project: Path, migrated_database: Path, cells: Mapping[str, Mapping[str, Any]]) -> None:
    """Register phi 1.0.0 in a project's own registry: of each cell a bundle with these arguments of `make_bundle`."""
    home = project / ".phipack"
    home.mkdir()
    shutil.copyfile(migrated_database, home / "mlflow.db")
    store = FolderStore(home / "store")
    ledger = open_ledger(f"sqlite:///{home}/mlflow.db", store)
    for cell, made_with in cells.items():
        bundle = make_bundle(project / cell, {"model.gguf": cell.encode()}, **made_with)
        store.add_bundle(bundle)
        ledger.register(entry(bundle, cell=cell, target=cell))


def client_of(ledger: Ledger) -> Any:
    """Plain MLflow, as another program would open it."""
    from mlflow import MlflowClient

    return MlflowClient(ledger.uri, ledger.uri)


def runs_of(ledger: Ledger) -> list[Any]:
    """Runs of evidence and of moves, without those of releases, in which the former are nested."""
    return [run for run in _runs_of(ledger) if run.data.tags.get("phipack.kind") != "release"]


def releases_of(ledger: Ledger) -> list[Any]:
    """Runs of releases."""
    return [run for run in _runs_of(ledger) if run.data.tags.get("phipack.kind") == "release"]


def _runs_of(ledger: Ledger) -> list[Any]:
    client = client_of(ledger)
    experiment = client.get_experiment_by_name("phi")
    return [] if experiment is None else list(client.search_runs([experiment.experiment_id]))
