"""Registering in a real MLflow: what a version's row and run hold, and what is refused."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from devtools.bundles import make_bundle, make_evidence
from registry.bundle.folder import Bundle
from registry.bundle.manifest import MANIFEST_NAME
from registry.files.digests import digest_of_bytes
from registry.ledger.artifact_uris import BundleUri, parse_artifact_uri
from registry.ledger.ledger import Ledger, open_ledger
from registry.ledger.mlflow_client import Mlflow
from registry.promotion import promote
from registry.store.folder import FolderStore
from targets.errors import PhipackError, RegistryError
from targets.references import Reference, Version
from tests.support.databases import EVERYWHERE, POSTGRESQL, SQLITE
from tests.support.registrations import client_of, entry, runs_of

DATABASES = EVERYWHERE


def test_a_registered_version_is_the_same_in_plain_mlflow(ledger: Ledger, store: FolderStore, bundle: Bundle) -> None:
    store.add_bundle(bundle)
    version = ledger.register(entry(bundle))
    assert version.reference == "phi:1.0.0@iphone-15"
    assert ledger.versions("phi") == [version]
    client = client_of(ledger)
    row = client.get_model_version("phi.iphone-15", str(version.number))
    assert parse_artifact_uri(row.source) == BundleUri(store.uri, bundle.digest)
    assert row.tags == {
        "phipack.model": "phi",
        "phipack.cell": "iphone-15",
        "phipack.release": "1.0.0",
        "phipack.digest": bundle.digest,
        "phipack.checkpoint": bundle.manifest.checkpoint,
        "phipack.recipe": "gguf-q4_0",
        "phipack.target": "iphone-15",
        "phipack.gates": "passed",
        "phipack.evidence": version.evidence,
        "phipack.run": row.run_id,
        "phipack.store": store.uri,
        "phipack.inputs": json.dumps(dict(entry(bundle).inputs), sort_keys=True),
    }
    run = client.get_run(row.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics == {"kl_mean_nat": 0.01, "artifact_bytes": bundle.manifest.total_bytes}
    assert run.data.params["release"] == "1.0.0"
    files = {file.path for file in client.list_artifacts(row.run_id)}
    assert {"evidence.json", MANIFEST_NAME} <= files <= {"evidence.json", MANIFEST_NAME, "bundle"}
    assert ledger.evidence(version) == entry(bundle).evidence


@pytest.mark.parametrize("databases", [SQLITE, POSTGRESQL], indirect=True)
def test_evidence_lies_in_the_store(ledger: Ledger, store: FolderStore, bundle: Bundle) -> None:
    store.add_bundle(bundle)
    row = ledger.register(entry(bundle))
    assert len(list((store.root / "mlflow" / "phi").rglob("evidence.json"))) == 1
    assert ledger.evidence(row) == entry(bundle).evidence


def test_evidence_is_where_mlflow_puts_it_else_where_its_run_says(
    ledger: Ledger, store: FolderStore, bundle: Bundle, tmp_path: Path
) -> None:
    """No request is needed to know the first; the digest decides whether that is the evidence."""
    store.add_bundle(bundle)
    row = ledger.register(entry(bundle))
    (folder,) = ledger.evidence_folders("phi", [row]).values()
    assert digest_of_bytes(ledger.mlflow.read_file(row.run_id, "evidence.json", folder)) == row.evidence
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    (stranger / "evidence.json").write_text("{}")
    for place in (folder, str(stranger), str(tmp_path / "nowhere")):
        assert ledger.evidence(row, place) == entry(bundle).evidence


@pytest.mark.client_side
def test_the_same_bundle_again_is_no_error(ledger: Ledger, store: FolderStore, bundle: Bundle) -> None:
    store.add_bundle(bundle)
    first = ledger.register(entry(bundle))
    assert ledger.register(entry(bundle)) == first
    assert len(runs_of(ledger)) == 1


def test_new_evidence_of_the_same_bundle_renews_the_version(ledger: Ledger, store: FolderStore, bundle: Bundle) -> None:
    store.add_bundle(bundle)
    failed = ledger.register(entry(bundle, kl_mean=0.2))
    assert not failed.gates_passed
    renewed = ledger.register(entry(bundle))
    assert renewed.gates_passed
    assert renewed.number == failed.number
    assert ledger.versions("phi") == [renewed]
    assert ledger.evidence(renewed) == entry(bundle).evidence
    assert len(runs_of(ledger)) == 2


@pytest.mark.client_side
def test_another_bundle_for_a_release_is_refused(
    ledger: Ledger, store: FolderStore, bundle: Bundle, tmp_path: Path
) -> None:
    store.add_bundle(bundle)
    first = ledger.register(entry(bundle))
    other = make_bundle(tmp_path / "other", {"model.gguf": b"other"})
    store.add_bundle(other)
    with pytest.raises(RegistryError, match="registered already, with another bundle") as caught:
        ledger.register(entry(other))
    assert caught.value.fix
    assert ledger.versions() == [first]
    ledger.register(entry(other, "1.0.1"))
    ledger.register(entry(other, cell="pixel-9"))
    assert [version.reference for version in ledger.versions("phi")] == [
        "phi:1.0.0@iphone-15",
        "phi:1.0.1@iphone-15",
        "phi:1.0.0@pixel-9",
    ]


@pytest.mark.client_side
def test_foreign_evidence_is_refused(ledger: Ledger, store: FolderStore, bundle: Bundle, tmp_path: Path) -> None:
    store.add_bundle(bundle)
    other = make_bundle(tmp_path / "other", {"model.gguf": b"other"})
    with pytest.raises(RegistryError, match="the evidence is of bundle"):
        ledger.register(replace(entry(bundle), evidence=make_evidence(other)))
    foreign = make_evidence(bundle).model_copy(update={"checkpoint": "sha256:" + "f" * 64})
    with pytest.raises(RegistryError, match="the evidence is of checkpoint"):
        ledger.register(replace(entry(bundle), evidence=foreign))
    assert ledger.models() == []
    assert runs_of(ledger) == []


@pytest.mark.client_side
def test_a_bundle_that_is_missing_in_the_store_is_refused(ledger: Ledger, bundle: Bundle) -> None:
    with pytest.raises(RegistryError, match="is not in the store"):
        ledger.register(entry(bundle))
    assert ledger.versions() == []


@pytest.mark.client_side
@pytest.mark.parametrize("name", ["Phi", "a/b", "a:b", "", "a b"])
def test_names_outside_the_grammar_are_refused(ledger: Ledger, store: FolderStore, bundle: Bundle, name: str) -> None:
    store.add_bundle(bundle)
    with pytest.raises(PhipackError, match="is not a valid name of a cell"):
        ledger.register(entry(bundle, cell=name))
    with pytest.raises(PhipackError, match="is not a valid name of a model"):
        ledger.register(replace(entry(bundle), model=name))
    assert ledger.versions() == []


@pytest.mark.client_side
def test_dots_in_names_are_kept_apart(ledger: Ledger, store: FolderStore, bundle: Bundle) -> None:
    store.add_bundle(bundle)
    ledger.register(replace(entry(bundle), model="phi-3", cell="5-mini.iphone"))
    with pytest.raises(RegistryError, match="is not cell 'iphone' of model"):
        ledger.register(replace(entry(bundle), model="phi-3.5-mini", cell="iphone"))
    assert ledger.models() == ["phi-3"]
    assert ledger.versions("phi-3.5-mini") == []


def test_a_prompt_that_has_the_name_is_said_to_have_it(ledger: Ledger, store: FolderStore, bundle: Bundle) -> None:
    store.add_bundle(bundle)
    client_of(ledger).register_prompt("phi.iphone-15", "Answer {{question}}")
    with pytest.raises(RegistryError, match=r"a prompt named phi\.iphone-15") as refused:
        ledger.register(entry(bundle))
    assert "rename the cell" in refused.value.fix
    assert ledger.versions() == []


@pytest.mark.client_side
def test_somebody_elses_registered_model_is_left_alone(ledger: Ledger, store: FolderStore, bundle: Bundle) -> None:
    store.add_bundle(bundle)
    client = client_of(ledger)
    client.create_registered_model("phi.iphone-15")
    client.create_model_version("phi.iphone-15", "phipack-file:///theirs")
    with pytest.raises(RegistryError, match="is not cell"):
        ledger.register(entry(bundle))
    assert ledger.versions() == []
    assert ledger.models() == []


class BreaksWhenMaking(Ledger):
    """A ledger whose server dies before the version is made."""

    @cached_property
    def mlflow(self) -> Mlflow:
        made = Mlflow(self.uri)

        def die(*_: Any, **__: Any) -> None:
            raise ConnectionError("the server died")

        made._client.create_model_version = die  # type: ignore[method-assign]
        return made


def test_a_failure_in_the_middle_leaves_no_version(ledger: Ledger, store: FolderStore, bundle: Bundle) -> None:
    store.add_bundle(bundle)
    with pytest.raises(RegistryError, match="the server died"):
        BreaksWhenMaking(ledger.uri, store).register(entry(bundle))
    assert ledger.versions() == []
    assert [run.info.status for run in runs_of(ledger)] == ["FAILED"]
    ledger.register(entry(bundle))
    assert len(ledger.versions("phi")) == 1


def test_what_a_killed_registration_left_running_is_ended(ledger: Ledger, store: FolderStore, bundle: Bundle) -> None:
    """With a lock, nobody else can be at it; with a server, it must have begun an hour ago."""
    store.add_bundle(bundle)
    client = client_of(ledger)
    whole = ledger.register(entry(bundle)).run_id
    client.update_run(whole, "RUNNING")  # its process died between the version and the run's end
    (experiment,) = {run.info.experiment_id for run in runs_of(ledger)}
    started = {"old": int((time.time() - 7200) * 1000), "new": None}
    tags = entry(bundle).run_tags()
    made = {name: client.create_run(experiment, begin, tags=tags) for name, begin in started.items()}
    somebody_elses = client.create_run(experiment, 1)
    ledger.register(entry(bundle, "1.1.0"))
    states = {run.info.run_id: run.info.status for run in runs_of(ledger)}
    locked = not ledger.uri.startswith("http")
    assert states[made["old"].info.run_id] == "FAILED"
    assert states[made["new"].info.run_id] == ("FAILED" if locked else "RUNNING")
    assert states[whole] == ("FINISHED" if locked else "RUNNING")
    assert states[somebody_elses.info.run_id] == "RUNNING"


def test_two_register_one_release_at_once(ledger: Ledger, store: FolderStore, bundle: Bundle, tmp_path: Path) -> None:
    other = make_bundle(tmp_path / "other", {"model.gguf": b"other"})
    barrier = threading.Barrier(2)

    def register(mine: Bundle) -> str:
        store.add_bundle(mine)
        own = open_ledger(ledger.uri, store)
        own.models()
        barrier.wait()
        try:
            return own.register(entry(mine)).digest
        except RegistryError as error:
            return error.problem

    with ThreadPoolExecutor(2) as pool:  # the lock is held by open file, so threads stand for processes
        outcomes = list(pool.map(register, (bundle, other)))
    winner = ledger.versions("phi")
    assert len(winner) == 1
    assert winner[0].digest in outcomes
    assert sum("registered already" in outcome for outcome in outcomes) == 1


def test_racers_on_a_server_settle_on_the_lower_number(
    ledger: Ledger, store: FolderStore, bundle: Bundle, tmp_path: Path
) -> None:
    """Without a lock both are made; the later one takes itself back."""
    store.add_bundle(bundle)
    other = make_bundle(tmp_path / "other", {"model.gguf": b"other"})
    store.add_bundle(other)
    first = ledger.register(entry(bundle))
    late = entry(other)
    made = client_of(ledger).create_model_version(
        first.registered_model, store.bundle_uri(other.digest), tags=late.version_tags("run", store.uri)
    )
    assert ledger.versions("phi") == [first]
    with pytest.raises(RegistryError, match="registered already"):
        ledger._first_of_racers(late, int(made.version))
    assert len(client_of(ledger).search_model_versions("name = 'phi.iphone-15'")) == 1


@pytest.mark.client_side
def test_the_plan_of_a_release_is_kept(ledger: Ledger) -> None:
    assert ledger.noted("phi", Version(1, 0, 0)).cells == ()
    ledger.plan_release("phi", Version(1, 0, 0), ["pixel-9", "iphone-15"])
    ledger.plan_release("phi", Version(1, 1, 0), ["pixel-9"])
    assert ledger.noted("phi", Version(1, 0, 0)).cells == ("iphone-15", "pixel-9")
    ledger.plan_release("phi", Version(1, 0, 0), ["iphone-15"])
    assert ledger.noted("phi", Version(1, 0, 0)).cells == ("iphone-15",)


@pytest.mark.client_side
def test_the_reason_of_a_release_may_change_until_it_is_promoted(
    ledger: Ledger, store: FolderStore, bundle: Bundle
) -> None:
    version, cells = Version(1, 0, 0), ["iphone-15"]
    assert ledger.noted("phi", version).reason == ""
    ledger.plan_release("phi", version, cells, reason="Short answers in German; see http://ann:secret@wiki/page")
    assert ledger.noted("phi", version).reason == "Short answers in German; see http://ann:***@wiki/page"
    ledger.plan_release("phi", version, cells, reason="Longer answers\nin German")
    ledger.plan_release("phi", version, cells)
    assert ledger.noted("phi", version).reason == "Longer answers\nin German"
    assert ledger.noted("phi", Version(1, 0, 1)).reason == ""
    store.add_bundle(bundle)
    ledger.register(entry(bundle))
    promote(ledger, Reference.parse("phi:1.0.0"), "production", who="ann")
    ledger.plan_release("phi", version, cells, reason="Longer answers\nin German")
    with pytest.raises(
        RegistryError, match=r"its reason is 'Longer answers\\nin German'; nothing was registered"
    ) as caught:
        ledger.plan_release("phi", version, cells, reason="another one")
    assert "raise the version" in caught.value.fix
    assert ledger.noted("phi", version).reason == "Longer answers\nin German"
