"""What a reviewer finds on MLflow's pages: verdict and gates, the report, charts, metrics with units, nested runs."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

import phipack
from builders.report.card import DESCRIPTION_LIMIT, description, model_card
from builders.report.content import CellContent
from devtools.bundles import make_bundle, make_evidence
from registry.ledger.ledger import Ledger, open_ledger
from registry.ledger.registration import RENEWED, Registration
from tests.support.registrations import client_of, releases_of, runs_of
from tests.support.report_samples import compared, details, evidence, small_bundle


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> phipack.Registry:
    """A registry in a folder of its own."""
    for name in ("PHIPACK_STORE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    return phipack.Registry(home=tmp_path / "home", user="ann")


def test_a_version_has_verdict_gates_report_and_charts(registry: phipack.Registry, tmp_path: Path) -> None:
    ledger: Ledger = registry._ledger
    bundle = small_bundle(tmp_path / "bundle", stop_ids=[2], template="t", q4=7)
    (tmp_path / "bundle" / "manifest.json").unlink()
    real = bundle.manifest.model_copy(
        update={
            "files": [e.model_copy(update={"bytes": 1}) if e.path == "model.gguf" else e for e in bundle.manifest.files]
        }
    )
    (tmp_path / "bundle" / "manifest.json").write_bytes(real.to_bytes())
    opened = phipack.open_bundle(tmp_path / "bundle")
    rows = [
        registry.register(opened, evidence(opened, details(), target=cell), as_=f"phi:1.0.0@{cell}", with_report=True)
        for cell in ("iphone-15", "pixel-9")
    ]
    client = client_of(ledger)
    (parent,) = releases_of(ledger)
    assert parent.info.run_name == "phi:1.0.0"
    assert {run.data.tags["mlflow.parentRunId"] for run in runs_of(ledger)} == {parent.info.run_id}
    version = client.get_model_version("phi.iphone-15", "1")
    said = "**Passes its gates; look at**: 2 things to judge. It passes all 4 gates and 10 checks of behaviour."
    assert version.description.startswith(said)
    assert "| kl\\_mean | 0.024 nat | &lt;= 0.05 nat | project | passes |" in version.description
    run = client.get_run(rows[0].run_id)
    assert run.data.tags["mlflow.note.content"] == version.description
    metrics = run.data.metrics
    assert metrics["kl_mean_nat"] == 0.024
    assert metrics["text/chinese/kl_nat"] == 0.049
    assert metrics["task/SocialIQA/drop_points"] == 2.6
    assert metrics["safety/over-refusal/refusals_lost"] == 0
    assert (metrics["checks/failed"], metrics["checks/made"]) == (0, 10)
    curve = client.get_metric_history(rows[0].run_id, "kl_by_position_nat")
    assert [point.step for point in curve] == [64, 512, 2047, 2304, 4096]
    charts = {file.path for file in client.list_artifacts(rows[0].run_id, "charts")}
    assert charts == {f"charts/{name}.png" for name in ("texts", "positions", "classes", "tasks", "storage")}
    assert {"report.html", "README.md"} <= {file.path for file in client.list_artifacts(rows[0].run_id)}
    files = (
        ledger.mlflow.read_file(rows[0].run_id, "charts/texts.png"),
        ledger.mlflow.read_file(rows[0].run_id, "report.html"),
    )
    assert files[0].startswith(b"\x89PNG")
    assert b"<h1>phi:1.0.0@iphone-15</h1>" in files[1]
    assert client.get_experiment_by_name("phi").tags["mlflow.experimentKind"] == "custom_model_development"
    assert (
        registry.register(opened, evidence(opened, details()), as_="phi:1.0.0@iphone-15", with_report=True) == rows[0]
    )
    assert (len(runs_of(ledger)), len(releases_of(ledger))) == (2, 1)


def test_new_evidence_has_a_new_description(registry: phipack.Registry, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    row = registry.register(bundle, make_evidence(bundle, kl_mean=0.2), as_="phi:1.0.0@iphone-15", with_report=True)
    client = client_of(registry._ledger)
    assert "Does not pass" in client.get_model_version("phi.iphone-15", str(row.number)).description
    registry.register(bundle, make_evidence(bundle), as_="phi:1.0.0@iphone-15", with_report=True)
    assert "**Passes**" in client.get_model_version("phi.iphone-15", str(row.number)).description
    assert len(releases_of(registry._ledger)) == 1


def test_no_verdict_stands_over_other_evidence(registry: phipack.Registry, tmp_path: Path) -> None:
    """Neither after evidence without a report, nor where MLflow fails half-way."""
    bundle = make_bundle(tmp_path / "bundle")
    reference = "phi:1.0.0@iphone-15"
    row = registry.register(bundle, make_evidence(bundle), as_=reference, with_report=True)
    version = partial(client_of(registry._ledger).get_model_version, "phi.iphone-15", str(row.number))
    assert "**Passes**" in version().description
    registry.register(bundle, make_evidence(bundle, kl_mean=0.2), as_=reference)
    assert version().description == RENEWED
    for tag, worse in (("phipack.run", 0.3), ("phipack.evidence", 0.4)):
        registry.register(bundle, make_evidence(bundle, kl_mean=worse), as_=reference, with_report=True)
        assert "Does not pass" in version().description
        ledger = registry._ledger
        broken = _breaking(ledger, tag)
        better = Registration("phi", row.release, "iphone-15", bundle.manifest, make_evidence(bundle, kl_mean=0.01))
        with pytest.raises(OSError, match="the server died"):
            broken.register(replace(better, description="**Passes**"))
        assert version().description == RENEWED
        assert not registry.resolve(reference)[0].gates_passed or tag == "phipack.evidence"


def _breaking(ledger: Ledger, at: str) -> Ledger:
    """Return a ledger whose MLflow dies when this tag is set."""
    broken = open_ledger(ledger.uri, ledger.store)
    set_tag = broken.mlflow.set_version_tag

    def dying(name: str, number: int, tag: str, value: str) -> None:
        if tag == at:
            raise OSError("the server died")
        set_tag(name, number, tag, value)

    object.__setattr__(broken.mlflow, "set_version_tag", dying)
    return broken


def test_a_card_of_a_compared_bundle_says_what_to_run(tmp_path: Path) -> None:
    card = model_card(compared(tmp_path))
    assert "- chat template: chat\\_template.jinja\n" in card
    assert "lines differ" not in card.partition("## How to run it")[2].partition("##")[0]
    assert 'tags: [on-device, "gguf", "gguf-' in card


def test_a_card_has_hugging_faces_metadata_and_what_it_is_for(tmp_path: Path) -> None:
    cell: CellContent = compared(tmp_path)
    card = model_card(cell)
    assert card.startswith('---\nlicense: other\nlicense_name: as-of-the-checkpoint\nlibrary_name: "llama.cpp"\n')
    titles = [line for line in card.splitlines() if line.startswith("#")]
    assert titles[1:] == [
        f"## {name}"
        for name in ("Gates", "What to look at", "Intended use", "How to run it", "Limits", "Licences", "Origin")
    ]
    assert "- StrongREJECT, in the evaluation alone: MIT" in card
    assert "Why it is made" not in card
    reason = replace(cell, reason="Answers in *German*\nwere too short.")
    for text in (model_card(reason), description(reason, "here")):
        assert "\n\nWhy it is made, in its makers' words: Answers in \\*German\\* were too short.\n\n" in text
    many = details(checks=tuple(one for _ in range(400) for one in details().checks))
    assert len(description(cell, "here")) < DESCRIPTION_LIMIT
    wrong = tuple(check.model_copy(update={"passed": False, "detail": "<b>`x`|"}) for check in many.checks)
    long = description(compared(tmp_path / "b", many.model_copy(update={"checks": wrong})), "here")
    assert len(long) <= DESCRIPTION_LIMIT
    assert long.endswith("(The report has the rest.)")
    assert "&lt;b&gt;\\`x\\`\\|" in long
