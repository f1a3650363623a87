"""Runs that keep evidence: one each time it is registered, RUNNING meanwhile. Only `ledger.py` uses it.

They are nested in one run a release, which keeps nothing itself: MLflow's pages then show a release as one row. Whoever
misses it creates it while all others are kept out: by the registry's lock, or by the lease on the model's channels.

A process that dies leaves its run RUNNING. The next registration of the model ends it: FINISHED where a version refers
to it, else FAILED, as an error would have. Where the registry has a lock, holding it shows that the process is dead; a
server has none, so there the run's age does (and if it lived after all, its own end still counts).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from registry.files.digests import digest_of_bytes
from registry.ledger.channel_moves import CELL_KIND, KIND_TAG, RELEASE_KIND
from registry.ledger.mlflow_client import Mlflow
from registry.ledger.registration import EVIDENCE_NAME, Registration, ui_tags
from registry.ledger.versions import RELEASE_TAG, CellVersion
from targets.errors import RegistryError, RegistryUnreachableError
from targets.evidence import Evidence

_DEAD_MS = 3_600_000
_PARENT_TAG = "mlflow.parentRunId"
Alone = Callable[[], AbstractContextManager[object]]  # a block in which no other process creates runs of the model


@contextmanager
def evidence_run(mlflow: Mlflow, experiment: str, entry: Registration, alone: Alone) -> Iterator[str]:
    """Keep the evidence in a run, which ends with the block: FINISHED, or FAILED on any error or interrupt.

    `alone`: entered where the run of the release is missing, so that of two cells at once only one creates it.
    """
    tags = ui_tags(entry.run_tags()) | {_PARENT_TAG: _release_run(mlflow, experiment, entry, alone)}
    run_id = mlflow.create_run(experiment, entry.reference, tags)
    ended = "FAILED"
    try:
        mlflow.log(run_id, entry.metrics(), entry.params(), entry.files())
        yield run_id
        ended = "FINISHED"
    finally:
        mlflow.end_run(run_id, ended)


def run_folders(experiment: Any, run_ids: Iterable[str]) -> dict[str, str]:
    """Return where MLflow puts the files of an experiment's runs, by ID. It asks nothing, and may be out of date."""
    folder = (experiment.artifact_location or "").rstrip("/")
    return {run_id: f"{folder}/{run_id}/artifacts" for run_id in run_ids} if folder else {}


def read_evidence(mlflow: Mlflow, version: CellVersion, folder: str | None) -> Evidence:
    """Return a version's evidence. Not in `folder`, of `run_folders`: the run is asked where its files are.

    Raises:
        RegistryError: it can't be read, or is not what was registered.
    """
    raw = b"" if folder is None else _read_if_there(mlflow, version.run_id, folder)
    if digest_of_bytes(raw) != version.evidence:
        raw = mlflow.read_file(version.run_id, EVIDENCE_NAME)
    if digest_of_bytes(raw) != version.evidence:
        raise RegistryError(
            f"{version.reference}: its evidence in MLflow (run {version.run_id}) is not what was registered",
            fix="run phipack release again, which measures and registers the evidence again",
        )
    return Evidence.parse(raw, source=f"{EVIDENCE_NAME} of MLflow's run {version.run_id}")


def _read_if_there(mlflow: Mlflow, run_id: str, folder: str) -> bytes:
    try:
        return mlflow.read_file(run_id, EVIDENCE_NAME, folder)
    except RegistryUnreachableError:
        raise
    except RegistryError:
        return b""


def _release_run(mlflow: Mlflow, experiment: str, entry: Registration, alone: Alone) -> str:
    """Return the run of the release, which is created first where it is missing. Of two, the older one counts."""
    found = _found_release_run(mlflow, experiment, entry)
    if found is None:
        with alone():
            found = _found_release_run(mlflow, experiment, entry)  # another cell's process was first
            if found is None:
                found = mlflow.create_run(experiment, entry.release, ui_tags(entry.release_tags())), ""
    run_id, status = found
    if status != "FINISHED":
        mlflow.end_run(run_id, "FINISHED")
    return run_id


def _found_release_run(mlflow: Mlflow, experiment: str, entry: Registration) -> tuple[str, str] | None:
    """Return ID and status of the run of the release, as far as there is one."""
    wanted = f"tags.`{KIND_TAG}` = '{RELEASE_KIND}' AND tags.`{RELEASE_TAG}` = '{entry.version}'"
    found = [run.info for run in mlflow.runs(experiment, wanted)]
    oldest = min(found, key=lambda run: (run.start_time, run.run_id), default=None)
    return None if oldest is None else (str(oldest.run_id), str(oldest.status))


def end_dead_runs(mlflow: Mlflow, experiment: str, used: Collection[str], *, alone: bool) -> None:
    """End what dead processes left; `used`: runs of versions; `alone`: no other process registers now."""
    begun = "" if alone else f" AND attributes.start_time < {int(time.time() * 1000) - _DEAD_MS}"
    wanted = f"tags.`{KIND_TAG}` = '{CELL_KIND}' AND attributes.status = 'RUNNING'{begun}"
    for run in mlflow.runs(experiment, wanted):
        run_id = str(run.info.run_id)
        mlflow.end_run(run_id, "FINISHED" if run_id in used else "FAILED")
