"""Registrations of small bundles, and the registry as plain MLflow sees it."""

from __future__ import annotations

from typing import Any

from devtools.bundles import make_evidence
from registry.bundle.folder import Bundle
from registry.ledger.ledger import Ledger
from registry.ledger.registration import Registration
from targets.references import Version


def entry(bundle: Bundle, version: str = "1.0.0", cell: str = "iphone-15", **evidence: Any) -> Registration:
    return Registration("phi", Version.parse(version), cell, bundle.manifest, make_evidence(bundle, **evidence))


def client_of(ledger: Ledger) -> Any:
    """Plain MLflow, as another program would open it."""
    from mlflow import MlflowClient

    return MlflowClient(ledger.uri, ledger.uri)


def runs_of(ledger: Ledger) -> list[Any]:
    client = client_of(ledger)
    experiment = client.get_experiment_by_name("phi")
    return [] if experiment is None else list(client.search_runs([experiment.experiment_id]))
