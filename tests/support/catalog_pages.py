"""A registry and a published catalog that differ, with texts that strangers have written: what the pages show."""

from __future__ import annotations

import html
import re
import shutil
from dataclasses import replace
from pathlib import Path

from starlette.testclient import TestClient

import phipack
from devtools.bundles import make_bundle
from registry.bundle.folder import Bundle
from registry.catalog.signing import create_keys
from registry.ledger.registration import REPORT_NAME, Registration
from targets.evidence import Evidence
from targets.references import Version
from tests.support.report_samples import HOSTILE, details, evidence

MODEL, OTHER = "phi-3-mini", "phi-3-small"
REASON = f'It\'s "faster"; see http://ann:secret@wiki/page {HOSTILE}'
# What somebody who may write to MLflow could put in a report's place.
PLANTED = """<!doctype html><title>planted</title><style>h1 {color: red}</style><h1>planted</h1>
<script>document.title = 'it ran'</script><img src="https://evil.example/x" onerror="document.title = 'it ran'">
<form action="/models"><button>send</button></form>"""
_DEVICES = {"galaxy-s24": (14.2, 0.021), "iphone-15": (12.4, 0.024), "pixel-9": (9.1, 0.028)}


def make_registry(home: Path, migrated_database: Path) -> phipack.Registry:
    """Return a registry of two models.

    phi-3-mini: 1.0.0 is out for all, 1.1.0 is rolled out to 10 % of production (with a report of iphone-15, and a
    planted one of pixel-9), 1.2.0 does not pass on pixel-9, plans a cell that is missing, and is in staging in spite of
    it, not published.
    phi-3-small: 1.0.0 is published; production was promoted to 1.1.0 since, and its cell pixel-9 retired.
    """
    home.mkdir(parents=True)
    shutil.copyfile(migrated_database, home / "mlflow.db")
    registry = phipack.Registry(f"sqlite:///{home}/mlflow.db", home / "store", home=home, user="ann@laptop")
    keys = create_keys(home / "keys", {})
    _release(registry, MODEL, "1.0.0")
    registry.promote(f"{MODEL}:1.0.0", to="production", reason="the first release")
    registry.publish(MODEL, keys=keys, deltas=False)
    _release(registry, MODEL, "1.1.0", kl_factor=0.9, with_reports=True)
    registry.promote(f"{MODEL}:1.1.0", to="production", reason=REASON)
    registry.publish(MODEL, keys=keys, rollout_percent=10, deltas=False)
    _release(registry, MODEL, "1.2.0", kl_factor=2)
    registry.plan_release(f"{MODEL}:1.2.0", [*_DEVICES, "iphone-16"], reason=REASON)
    registry.promote(f"{MODEL}:1.2.0", to="staging", override_reason="for the demo on Friday")
    _release(registry, OTHER, "1.0.0")
    registry.promote(f"{OTHER}:1.0.0", to="production", reason="")
    registry.publish(OTHER, keys=keys, deltas=False)
    _release(registry, OTHER, "1.1.0")
    registry.promote(f"{OTHER}:1.1.0", to="production", reason="smaller")
    registry.retire(f"{OTHER}@pixel-9", "production", reason="too slow there")
    return registry


def text_of(client: TestClient, path: str, status: int = 200) -> str:
    """Return what a page says, without its tags."""
    answer = client.get(path)
    assert answer.status_code == status, answer.text
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", answer.text)))


def _release(
    registry: phipack.Registry, model: str, version: str, *, kl_factor: float = 1, with_reports: bool = False
) -> None:
    folder = registry.home / "made" / f"{model}-{version}"
    bundle = make_bundle(folder, {"model.gguf": f"{model} {version}".encode() * 1000})
    registry.store.add_bundle(bundle)
    registry.plan_release(f"{model}:{version}", list(_DEVICES))
    for cell, (speed, kl) in _DEVICES.items():
        found = _evidence(bundle, cell, speed, kl * kl_factor)
        entry = Registration(model, Version.parse(version), cell, bundle.manifest, found)
        if with_reports and cell == "iphone-15":
            entry = replace(entry, pages={REPORT_NAME: phipack.report_bundle(bundle, found).html})
        elif with_reports and cell == "pixel-9":
            entry = replace(entry, pages={REPORT_NAME: PLANTED.encode()})
        registry._ledger.register(entry)


def _evidence(bundle: Bundle, cell: str, speed: float, kl: float) -> Evidence:
    found = evidence(bundle, details(), target=cell, kl_mean=kl, decode=speed)
    if cell != "pixel-9":
        return found
    figures = {name: one for name, one in found.figures.items() if not name.startswith("device_")}
    return found.model_copy(update={"figures": figures})
