"""A whole release: a tiny checkpoint built, validated by llama.cpp, and registered. And the collection of garbage."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

from devtools.bundles import make_bundle
from phipack.__main__ import main
from registry.garbage import collect
from registry.ledger.ledger import open_ledger
from registry.ledger.reader import open_reader
from targets.evidence import ACCURACY_FIGURES
from tests.faults.channels import HOME, prepare_registry, prepare_releases, store_is_sound, store_is_tidy
from tests.faults.ground import Ground, as_command, names
from tests.faults.stores import STORE, case_store
from tests.support.checkpoints import write_tiny

UNDISTURBED = Path("undisturbed.json")
PROJECT = """\
model = "tiny"
version = "1.0.0"
checkpoint = "checkpoint"

[evaluation]
tokens = 64
window = 32
greedy_prompts = 1
greedy_new_tokens = 2

[gates]
kl_mean = { at_most = 0.5 }

[[cells]]
target = "galaxy-s24"
recipe = "gguf-q8_0"
"""


def prepare_project(ground: Ground) -> None:
    """A project file of one cell, and its checkpoint; and what a release of it measures that nothing disturbs."""
    prepare_registry(ground)
    write_tiny(Path("checkpoint"))
    Path("phipack.toml").write_text(PROJECT, "utf-8")
    place = os.environ.pop("PHIPACK_STORE", None)  # the case's own store stays empty
    assert main(["release"]) == 0
    UNDISTURBED.write_text(json.dumps(_registered(), allow_nan=False))
    shutil.rmtree(HOME)
    if place is not None:
        os.environ["PHIPACK_STORE"] = place
    prepare_registry(ground)


def prepare_jobs_done(ground: Ground) -> None:
    """The same, built and validated; nothing is registered."""
    prepare_project(ground)
    assert main(["release", "--defer-registration"]) == 0


def released(ground: Ground) -> None:
    """The cell is registered once, by one run that has ended, nested in one; bundle and accuracy are as undisturbed.

    What the store has is of that bundle, or of what jobs have recorded.
    """
    store_is_sound(ground)
    assert _registered() == json.loads(UNDISTURBED.read_text())
    states = sorted((kind, status) for kind, status, _ in _runs())
    assert states.count(("cell", "FINISHED")) == states.count(("release", "FINISHED")) == 1, states
    assert all(status in ("FINISHED", "FAILED") for _, status in states), states
    (release,) = (run for kind, _, run in _runs() if kind == "release")
    assert {run.data.tags["mlflow.parentRunId"] for kind, _, run in _runs() if kind == "cell"} == {release.info.run_id}
    assert collect(case_store(), open_reader(None, case_store()), grace_seconds=0, dry_run=True).removed == ()


def _registered() -> dict[str, object]:
    """Return the only version's bundle, and of its evidence what is the same each time it is measured."""
    (row,) = open_reader(None, case_store()).versions("tiny")
    assert (row.cell, str(row.release)) == ("galaxy-s24", "1.0.0")
    evidence = open_ledger(None, case_store(), HOME).evidence(row)
    same = {name: figure.value for name, figure in evidence.figures.items() if name in ACCURACY_FIGURES}
    return {"bundle": row.digest, "checkpoint": evidence.checkpoint, "text": evidence.text, "figures": same}


def _runs() -> list[tuple[str, str, Any]]:
    """Return all runs of the model: kind, status, and the run."""
    client = open_ledger(None, case_store(), HOME).mlflow._client
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    return [(run.data.tags["phipack.kind"], run.info.status, run) for run in runs]


def workshop_is_tidy(ground: Ground) -> None:
    """Nothing lies about that was being built or measured, nor its lock."""
    store_is_tidy(ground)
    assert names(HOME / "work" / "bundles") == []
    unfinished = [path for path in HOME.rglob("*") if path.name.startswith(".phipack-") or path.suffix == ".new"]
    assert unfinished == []


def prepare_garbage(ground: Ground) -> None:
    """1.0.0 and 1.1.0 are registered; the store has an older bundle besides, which nobody refers to."""
    prepare_releases(ground)
    files = {f"part-{number}": f"unused {number}".encode() for number in range(4)}
    case_store().add_bundle(make_bundle(Path("unused"), files))
    if not STORE.exists():
        return  # in S3 nothing gets older: `collect_at_once`
    long_ago = time.time() - 7 * 86_400
    for path in STORE.rglob("*"):
        if path.is_file():
            os.utime(path, (long_ago, long_ago))


def collect_at_once(_: Ground) -> int:
    """Collect garbage of any age: objects in S3 have the server's time."""
    return as_command(lambda: collect(case_store(), open_reader(None, case_store()), grace_seconds=0))


def collected(ground: Ground) -> None:
    """What is registered is all there is."""
    store_is_sound(ground)
    store = case_store()
    digests = {row.digest for row in open_reader(None, store).versions()}
    expected = {f"sha256:{entry.sha256}" for digest in digests for entry in store.manifest(digest).files} | digests
    assert {blob.digest for blob in store.blobs()} == expected
