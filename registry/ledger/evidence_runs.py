"""Runs that keep evidence: one each time it is registered, RUNNING meanwhile. Only `ledger.py` uses it.

A process that dies leaves its run RUNNING. The next registration of the model ends it: FINISHED where a version refers
to it, else FAILED, as an error would have. The registry's lock shows that it is dead; beside a server, which has no
such lock, its age does (and if it lived after all, its own end still counts).
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from registry.ledger.channel_moves import CELL_KIND, KIND_TAG
from registry.ledger.mlflow_client import pages
from registry.ledger.mlflow_errors import foreign_errors
from registry.ledger.registration import Registration, ui_tags

if TYPE_CHECKING:
    from mlflow import MlflowClient

_DEAD_MS = 3_600_000


@contextmanager
def evidence_run(client: MlflowClient, uri: str, experiment: str, entry: Registration) -> Iterator[str]:
    """Keep the evidence in a run, which ends with the block: FINISHED, or FAILED on any error or interrupt."""
    with foreign_errors(uri):
        run = client.create_run(experiment, tags=ui_tags(entry.run_tags()), run_name=entry.reference)
        run_id = str(run.info.run_id)
    ended = "FAILED"
    try:
        with foreign_errors(uri):
            entry.log_to(client, run_id)
        yield run_id
        ended = "FINISHED"
    finally:
        with foreign_errors(uri):
            client.set_terminated(run_id, ended)


def end_dead_runs(client: MlflowClient, experiment: str, used: Collection[str], *, alone: bool) -> None:
    """End what dead processes left; `used`: runs of versions; `alone`: nobody else registers now."""
    begun = "" if alone else f" AND attributes.start_time < {int(time.time() * 1000) - _DEAD_MS}"
    wanted = f"tags.`{KIND_TAG}` = '{CELL_KIND}' AND attributes.status = 'RUNNING'{begun}"
    for run in list(pages(lambda token: client.search_runs([experiment], wanted, page_token=token))):
        run_id = str(run.info.run_id)
        client.set_terminated(run_id, "FINISHED" if run_id in used else "FAILED")
