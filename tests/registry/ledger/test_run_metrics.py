"""Evidence as MLflow's metrics: what they are called, and that MLflow takes them and returns them."""

from __future__ import annotations

import math
from typing import Any

import pytest

from registry.bundle.folder import Bundle
from registry.ledger.ledger import Ledger
from registry.ledger.registration import Registration
from registry.ledger.run_metrics import run_metrics
from registry.store.folder import FolderStore
from targets.evidence_details import Details, TextDivergence
from targets.references import Version
from tests.support.databases import EVERYWHERE
from tests.support.registrations import client_of
from tests.support.report_samples import details, evidence

DATABASES = EVERYWHERE
MLFLOWS_LONGEST_NAME, MLFLOWS_BATCH = 250, 1000  # mlflow.utils.validation


def metrics_of(bundle: Bundle, found: Details) -> dict[str, float]:
    return {one.name: one.value for one in run_metrics(evidence(bundle, found))}


def text(**changes: Any) -> TextDivergence:
    return details().texts[0].model_copy(update=changes)


def test_each_text_and_kind_has_the_perplexity_of_both(bundle: Bundle) -> None:
    found = details()
    metrics = metrics_of(bundle, found)
    prefixes = {f"text/{one.text}": one for one in found.texts} | {f"kind/{one.kind}": one for one in found.classes}
    assert len(prefixes) > 5
    for prefix, one in prefixes.items():
        assert one.prediction is not None
        assert metrics[f"{prefix}/perplexity"] == pytest.approx(one.prediction.perplexity, rel=1e-3)
        assert metrics[f"{prefix}/reference_perplexity"] == pytest.approx(one.prediction.reference_perplexity, rel=1e-3)
    for one in found.texts:
        ratio = metrics[f"text/{one.text}/perplexity"] / metrics[f"text/{one.text}/reference_perplexity"]
        assert metrics[f"text/{one.text}/perplexity_ratio"] == pytest.approx(ratio, rel=1e-3)


def test_evidence_of_an_older_phipack_has_no_perplexity_by_text(bundle: Bundle) -> None:
    metrics = metrics_of(bundle, details(texts=(text(prediction=None),), classes=()))
    assert "text/english/perplexity_ratio" in metrics
    assert not {"text/english/perplexity", "text/english/reference_perplexity"} & metrics.keys()


@pytest.mark.parametrize("name", ["english", "the file ../a//b\\c\n\u202e模型 é.txt" + "x" * 300, "..", "% *"])
def test_mlflow_takes_every_name_and_an_infinite_perplexity(
    ledger: Ledger, store: FolderStore, bundle: Bundle, name: str
) -> None:
    """Whatever a file is called. A bundle that rules a text out has an infinite perplexity there."""
    prediction = text().prediction
    assert prediction is not None
    infinite = prediction.model_copy(update={"perplexity": math.inf})
    found = evidence(bundle, details(texts=(text(text=name, prediction=infinite),)))
    store.add_bundle(bundle)
    row = ledger.register(Registration("phi", Version.parse("1.0.0"), "iphone-15", bundle.manifest, found))
    asked = run_metrics(found)
    assert len(asked) <= MLFLOWS_BATCH
    assert max(len(one.name) for one in asked) <= MLFLOWS_LONGEST_NAME
    metrics = client_of(ledger).get_run(row.run_id).data.metrics
    assert {one.name for one in asked} == metrics.keys()
    (perplexity,) = (value for key, value in metrics.items() if key.startswith("text/") and key.endswith("/perplexity"))
    assert perplexity > 1e308
