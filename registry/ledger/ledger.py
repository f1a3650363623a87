"""The ledger: versions, evidence, channels and their history, kept in MLflow. No other module writes there.

What phipack's words are in MLflow:

| phipack | MLflow |
|---|---|
| cell of a model | registered model `MODEL.CELL`, tags phipack.model, phipack.cell |
| a cell's version | model version: tags of `versions.py`; its source names the bundle: phipack-file:///STORE/sha256:… |
| its evidence | a run in the experiment MODEL: figures as metrics, evidence.json and manifest.json as files |
| channel | alias |
| a promotion, a rollback | a run in the experiment MODEL (`channel_moves.py`) |
| the cells that a release plans | tag phipack.plan.VERSION of the experiment MODEL |

MLflow has no transactions: a version is made in one call, tags included, after all that it refers to; what an error
leaves is a run marked FAILED.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from registry.files.digests import digest_of_bytes
from registry.ledger.channel_moves import KIND_TAG, MOVE_KIND, Move, MoveState, move_from_tags
from registry.ledger.evidence_runs import end_dead_runs, evidence_run
from registry.ledger.lease import Check, Timing
from registry.ledger.lock_wait import LockWait
from registry.ledger.mlflow_client import Mlflow
from registry.ledger.mlflow_lease import model_lease
from registry.ledger.mlflow_names import claim_name, experiment_id, require_visible
from registry.ledger.registration import EVIDENCE_NAME, Registration, ui_tags
from registry.ledger.registry_lock import LOCK_SECONDS, registry_lock
from registry.ledger.tracking import artifact_location, tracking_uri
from registry.ledger.versions import (
    EVIDENCE_TAG,
    GATES_TAG,
    MODEL_TAG,
    RUN_TAG,
    TAG_PREFIX,
    CellVersion,
    registered_model_name,
    settled,
    version_from_tags,
)
from registry.store.protocol import Store
from registry.store.uris import DEFAULT_HOME
from targets.errors import RegistryError
from targets.evidence import Evidence
from targets.progress import Progress, silent
from targets.references import Version, check_channel, check_name
from targets.secrets import shown
from targets.this_user import user_name

PLAN_TAG = TAG_PREFIX + "plan"
_STATES: dict[str, MoveState] = {"FINISHED": "done", "FAILED": "undone", "KILLED": "undone"}


@dataclass(frozen=True)
class Ledger:
    """MLflow at `uri`, for bundles in `store`. `open_ledger` makes it; the connection is made when first needed.

    A registry that does not exist yet is created by the first method that writes; the others find it empty.
    `on_progress` receives a notice of whom a change waits for. All methods raise `RegistryError`, and
    `RegistryUnreachableError` where MLflow does not answer.
    """

    uri: str
    store: Store
    on_progress: Progress = field(default=silent, compare=False)
    timing: ClassVar[Timing] = Timing()

    @cached_property
    def mlflow(self) -> Mlflow:
        """The calls to MLflow."""
        return Mlflow(self.uri, self.on_progress)

    def describe(self) -> str:
        """Return the registry's URI without password."""
        return shown(self.uri)

    def exists(self) -> bool:
        """Return False where nothing was ever registered, as the database is still to be made."""
        return self.mlflow.exists()

    def models(self) -> list[str]:
        """Return the names of all models, sorted."""
        rows = self.mlflow.registered_models(f"tags.`{MODEL_TAG}` != ''")
        return sorted({row.tags[MODEL_TAG] for row in rows})

    def versions(self, model: str | None = None) -> list[CellVersion]:
        """Return all versions of a model, or of all models, sorted by model, cell and release."""
        wanted = f"tags.`{MODEL_TAG}` = '{model}'" if model else f"tags.`{MODEL_TAG}` != ''"
        aliases = [
            (row.name, int(number), alias)
            for row in self.mlflow.registered_models(wanted)
            for alias, number in row.aliases.items()
        ]
        return settled(
            [
                _cell_version(row, [alias for *key, alias in aliases if key == [row.name, int(row.version)]])
                for row in self.mlflow.versions(wanted)
            ]
        )

    def version_in(self, model: str, cell: str, channel: str) -> CellVersion | None:
        """Return what a cell's channel points at, None for nothing: one small request, where all rows take two."""
        row = self.mlflow.version_by_alias(registered_model_name(model, cell), channel)
        found = _cell_version(row, row.aliases) if row is not None and MODEL_TAG in row.tags else None
        return found if found and (found.model, found.cell) == (model, cell) else None

    def register(self, entry: Registration) -> CellVersion:
        """Register a cell's version and return its row. The same bundle again is no error, and renews its evidence.

        Raises:
            RegistryError: the release has another bundle for this cell already; the bundle is not in the store; the
                evidence is another bundle's; the MLflow name is taken; MLflow refuses. No version is made.
        """
        self._check(entry)
        with self.exclusive() as check:
            rows = self.versions(entry.model)
            experiment = self._experiment(entry.model)
            end_dead_runs(self.mlflow, experiment, {row.run_id for row in rows}, alone=check is not None)
            existing = _registered_as(entry, rows)
            if existing is not None:
                return self._renew_evidence(existing, entry)
            with self._evidence_run(entry) as run_id:
                claim_name(self.mlflow, entry.model, entry.cell)  # whoever may not keep evidence claims no name
                number = self.mlflow.create_version(
                    registered_model_name(entry.model, entry.cell),
                    self.store.bundle_uri(entry.manifest.digest),
                    run_id,
                    entry.version_tags(run_id, self.store.uri),
                )
            return self._first_of_racers(entry, number)

    def evidence(self, version: CellVersion) -> Evidence:
        """Return a version's evidence, read back from MLflow. Raises `RegistryError` where it was changed since."""
        raw = self.mlflow.read_file(version.run_id, EVIDENCE_NAME)
        if digest_of_bytes(raw) != version.evidence:
            raise RegistryError(
                f"{version.reference}: its evidence in MLflow (run {version.run_id}) is not what was registered",
                fix="run phipack release again, which measures and registers the evidence again",
            )
        return Evidence.parse(raw, source=f"{EVIDENCE_NAME} of MLflow's run {version.run_id}")

    def plan_release(self, model: str, version: Version, cells: Sequence[str]) -> None:
        """Note which cells a release plans: promotion of the whole release waits for them all."""
        check_name("model", model)
        with self.exclusive():
            self.mlflow.set_experiment_tag(self._experiment(model), f"{PLAN_TAG}.{version}", " ".join(sorted(cells)))

    def planned_cells(self, model: str, version: Version) -> list[str]:
        """Return the cells that a release plans; none where it was never planned."""
        experiment = self.mlflow.experiment(model)
        return [] if experiment is None else str(experiment.tags.get(f"{PLAN_TAG}.{version}", "")).split()

    def point(self, model: str, cell: str, channel: str, number: int | None) -> None:
        """Point a cell's channel at MLflow's version `number`, or at nothing. `promotion.py` alone calls this."""
        check_channel(channel)
        self.mlflow.set_alias(registered_model_name(model, cell), channel, number)

    def require_rights(self, model: str, cell: str, channel: str, number: int | None) -> None:
        """Set the channel to `number`, where it is: MLflow refuses that to accounts that could not move it back.

        Taking back a cell's first promotion means deleting an alias, for which MLflow needs more than for setting one.
        """
        if self.uri.startswith("http"):
            self.mlflow.set_alias(registered_model_name(model, cell), channel, number)

    def require_visible(self, model: str, cell: str) -> None:
        """Raise `RegistryError` where a cell that shows no versions is one that this account may not read."""
        require_visible(self.mlflow, model, cell)

    def begin_move(self, move: Move, *, after: datetime | None) -> Move:
        """Keep what is about to move, before it moves; return the move with its id.

        It begins later than `after`, when the last one began, whatever the clocks say: the history is in the order of
        what happened.
        """
        now = time.time_ns() // 1_000_000
        begin = now if after is None else max(now, round(after.timestamp() * 1000) + 1)
        tags = ui_tags(move.to_tags(), move.who)
        run_id = self.mlflow.create_run(self._experiment(move.model), move.title, tags, begin)
        return replace(move, id=run_id, state="unfinished")

    def end_move(self, move: Move, *, done: bool) -> Move:
        """Mark a move as done, or as moved back."""
        self.mlflow.end_run(move.id, "FINISHED" if done else "FAILED")
        return replace(move, state="done" if done else "undone")

    def moves(self, model: str) -> list[Move]:
        """Return all moves of a model's channels, newest first, including those undone or never finished."""
        experiment = self.mlflow.experiment(model)
        if experiment is None:
            return []
        wanted = f"tags.`{KIND_TAG}` = '{MOVE_KIND}'"
        return [
            move_from_tags(
                run.data.tags,
                run_id=run.info.run_id,
                model=model,
                when=datetime.fromtimestamp(run.info.start_time / 1000, UTC),
                state=_STATES.get(run.info.status, "unfinished"),
            )
            for run in self.mlflow.runs(experiment.experiment_id, wanted, "attributes.start_time DESC")
        ]

    @contextmanager
    def exclusive(self, who: str | None = None) -> Iterator[Check | None]:
        """Keep out all others who change the registry; yields None where it is a server, which has no such lock."""
        self.mlflow.connect()  # first, as it takes a lock for a moment
        waiting = LockWait(who or user_name(), LOCK_SECONDS, self.on_progress)
        with registry_lock(self.uri, waiting) as check:
            yield check

    @contextmanager
    def moving(self, model: str, who: str) -> Iterator[Check]:
        """Keep out other movers of a model's channels, by the registry's lock or a lease. Yields its check."""
        with self.exclusive(who) as check:
            if check is not None:
                yield check
                return
        with model_lease(self.mlflow, model, who, self.timing, self.on_progress) as check:
            yield check

    def _check(self, entry: Registration) -> None:
        entry.check()
        digest = entry.manifest.digest
        if not self.store.has_bundle(digest):
            raise RegistryError(
                f"{entry.reference}: bundle {digest} is not in the store {self.store.uri}",
                fix="add the bundle to the store first, as phipack release does",
            )

    def _renew_evidence(self, existing: CellVersion, entry: Registration) -> CellVersion:
        """Same bundle: nothing to do, unless its evidence was measured again (gates may have changed)."""
        if existing.digest != entry.manifest.digest:
            raise entry.taken(existing)
        if existing.evidence == entry.evidence_digest:
            return existing
        with self._evidence_run(entry) as run_id:
            tags = entry.version_tags(run_id, existing.store)
            for tag in (RUN_TAG, GATES_TAG, EVIDENCE_TAG):  # its digest last: until then, the next try does all again
                self.mlflow.set_version_tag(existing.registered_model, existing.number, tag, tags[tag])
        return replace(existing, evidence=entry.evidence_digest, gates_passed=entry.evidence.passed, run_id=run_id)

    def _evidence_run(self, entry: Registration) -> AbstractContextManager[str]:
        return evidence_run(self.mlflow, self._experiment(entry.model), entry)

    def _first_of_racers(self, entry: Registration, number: int) -> CellVersion:
        """MLflow lets two processes add one release at once: the lower number counts, the other is taken back."""
        first = _registered_as(entry, self.versions(entry.model))
        if first is None or first.number == number:
            assert first is not None, "a version that was just made"
            return first
        self.mlflow.delete_version(first.registered_model, number)
        if first.digest != entry.manifest.digest:
            raise entry.taken(first)
        return first

    def _experiment(self, model: str) -> str:
        return experiment_id(self.mlflow, model, artifact_location(self.uri, self.store.uri, model))


def _registered_as(entry: Registration, rows: Sequence[CellVersion]) -> CellVersion | None:
    return next((row for row in rows if (row.cell, row.release) == (entry.cell, entry.version)), None)


def _cell_version(row: Any, channels: Sequence[str]) -> CellVersion:
    return version_from_tags(row.name, int(row.version), row.tags, created_ms=row.creation_timestamp, channels=channels)


def open_ledger(
    given_uri: str | None, store: Store, home: Path = DEFAULT_HOME, *, on_progress: Progress = silent
) -> Ledger:
    """Return the ledger at `given_uri`, else `MLFLOW_TRACKING_URI`, else SQLite in `home`. Connects when first used."""
    return Ledger(tracking_uri(given_uri, home), store, on_progress)
