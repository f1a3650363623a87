"""The ledger: versions, evidence, channels and their history, kept in MLflow. No other module writes there.

What phipack's words are in MLflow:

| phipack | MLflow |
|---|---|
| cell of a model | registered model `MODEL.CELL`, tags phipack.model, phipack.cell |
| a cell's version | model version: tags of `versions.py`; its source names the bundle: phipack-file:///STORE/sha256:… |
| its evidence | a run in the experiment MODEL: figures as metrics, evidence.json and manifest.json as files |
| channel | alias |
| a promotion, a rollback | a run in the experiment MODEL (`channel_moves.py`) |
| the cells that a release is to have | tag phipack.plan.VERSION of the experiment MODEL |

MLflow has no transactions: a version is made in one call, tags included, after all that it refers to; what an error
leaves is a run marked FAILED.
"""

from __future__ import annotations

import getpass
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from registry.files.digests import digest_of_bytes
from registry.ledger.channel_moves import KIND_TAG, MOVE_KIND, Move, MoveState, move_from_tags
from registry.ledger.evidence_runs import end_dead_runs, evidence_run
from registry.ledger.lease import Check, Timing
from registry.ledger.lock_wait import Told, Waiting, silent
from registry.ledger.mlflow_client import LOCK_SECONDS, connect, exclusive, files_at, pages
from registry.ledger.mlflow_errors import foreign_errors
from registry.ledger.mlflow_lease import model_lease
from registry.ledger.mlflow_names import claim_name, experiment_id, require_seen
from registry.ledger.registration import EVIDENCE_NAME, Registration, ui_tags
from registry.ledger.tracking import DEFAULT_HOME, artifact_place, tracking_uri
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
from targets.errors import RegistryError
from targets.evidence import Evidence
from targets.references import Version, check_channel, check_name

if TYPE_CHECKING:
    from mlflow import MlflowClient

PLAN_TAG = TAG_PREFIX + "plan"
_PAGE = 1000
_STATES: dict[str, MoveState] = {"FINISHED": "done", "FAILED": "undone", "KILLED": "undone"}


@dataclass(frozen=True)
class Ledger:
    """MLflow at `uri`, for bundles in `store`. `open_ledger` makes it; the connection is made when first needed.

    `told` hears whom a change waits for.
    """

    uri: str
    store: Store
    told: Told = field(default=silent, compare=False)
    timing: ClassVar[Timing] = Timing()

    @cached_property
    def _client(self) -> MlflowClient:
        waiting = Waiting(getpass.getuser(), LOCK_SECONDS, self.told)
        with exclusive(self.uri, waiting, migrating=True):  # two processes must not migrate one new database
            return connect(self.uri)

    def models(self) -> list[str]:
        """Names of all models, sorted."""
        return sorted({model.tags[MODEL_TAG] for model in self._registered(f"tags.`{MODEL_TAG}` != ''")})

    def versions(self, model: str | None = None) -> list[CellVersion]:
        """All versions of a model, or of all models, sorted by model, cell and release. Raises `RegistryError`."""
        wanted = f"tags.`{MODEL_TAG}` = '{model}'" if model else f"tags.`{MODEL_TAG}` != ''"
        aliases = [
            (row.name, int(number), alias) for row in self._registered(wanted) for alias, number in row.aliases.items()
        ]
        with foreign_errors(self.uri):
            rows = list(pages(lambda token: self._client.search_model_versions(wanted, _PAGE, page_token=token)))
        return settled(
            [
                _cell_version(row, [alias for *key, alias in aliases if key == [row.name, int(row.version)]])
                for row in rows
            ]
        )

    def standing(self, model: str, cell: str, channel: str) -> CellVersion | None:
        """What a cell's channel points at, None where that is nothing: one small request, where all rows take two."""
        client = self._client  # which imports MLflow, whole and in one thread
        from mlflow.exceptions import MlflowException

        with foreign_errors(self.uri):
            try:
                row = client.get_model_version_by_alias(registered_model_name(model, cell), channel)
            except MlflowException as error:
                if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    raise
                return None
        found = _cell_version(row, row.aliases) if MODEL_TAG in row.tags else None
        return found if found and (found.model, found.cell) == (model, cell) else None

    def register(self, entry: Registration) -> CellVersion:
        """Register a cell's version and give its row. The same bundle again is no error, and renews its evidence.

        Raises:
            RegistryError: the release has another bundle for this cell already; the store lacks the bundle; the
                evidence is another bundle's; the MLflow name is somebody else's; MLflow refuses. No version is made.
        """
        self._check(entry)
        with self.exclusive() as check:
            rows = self.versions(entry.model)
            with foreign_errors(self.uri):
                end_dead_runs(
                    self._client, self._experiment(entry.model), {row.run_id for row in rows}, alone=check is not None
                )
            existing = _registered_as(entry, rows)
            if existing is not None:
                return self._renew_evidence(existing, entry)
            with self._evidence_run(entry) as run_id, foreign_errors(self.uri):
                claim_name(self._client, entry.model, entry.cell)  # whoever may not keep evidence claims no name
                made = self._client.create_model_version(
                    registered_model_name(entry.model, entry.cell),
                    source=self.store.bundle_uri(entry.manifest.digest),
                    run_id=run_id,
                    tags=entry.version_tags(run_id, self.store.uri),
                )
            return self._first_of_racers(entry, int(made.version))

    def evidence(self, version: CellVersion) -> Evidence:
        """Read a version's evidence back from MLflow. Raises `RegistryError` where it is not what was registered."""
        with foreign_errors(self.uri), tempfile.TemporaryDirectory() as folder:
            place = self._client.get_run(version.run_id).info.artifact_uri
            path = Path(files_at(place, self.uri).download_artifacts(EVIDENCE_NAME, folder))
            raw = path.read_bytes()
            if digest_of_bytes(raw) != version.evidence:
                raise RegistryError(
                    f"{version.reference}: its evidence in MLflow (run {version.run_id}) is not what was registered",
                    fix="run phipack release again, which measures and registers evidence anew",
                )
            return Evidence.read(path)

    def plan_release(self, model: str, version: Version, cells: Sequence[str]) -> None:
        """Note which cells a release is to have: promotion of the whole release waits for them all."""
        check_name("model", model)
        with self.exclusive(), foreign_errors(self.uri):
            self._client.set_experiment_tag(self._experiment(model), f"{PLAN_TAG}.{version}", " ".join(sorted(cells)))

    def planned_cells(self, model: str, version: Version) -> list[str]:
        """The cells that a release is to have; none where it was never planned."""
        with foreign_errors(self.uri):
            experiment = self._client.get_experiment_by_name(model)
        return [] if experiment is None else str(experiment.tags.get(f"{PLAN_TAG}.{version}", "")).split()

    def point(self, model: str, cell: str, channel: str, number: int | None) -> None:
        """Let a cell's channel point at MLflow's version `number`, or at nothing. `promotion.py` alone calls this."""
        check_channel(channel)
        self._set_alias(registered_model_name(model, cell), channel, number)

    def require_rights(self, model: str, cell: str, channel: str, number: int | None) -> None:
        """Set the channel to `number`, where it stands: MLflow's accounts refuse that to who may not move it back.

        To take a cell's first promotion back is to delete an alias, for which MLflow asks more than for setting one.
        """
        if self.uri.startswith("http"):
            self._set_alias(registered_model_name(model, cell), channel, number)

    def require_seen(self, model: str, cell: str) -> None:
        """Raises `RegistryError` where a cell that shows no versions is one that this account may not read."""
        with foreign_errors(self.uri):
            require_seen(self._client, model, cell)

    def begin_move(self, move: Move, *, after: datetime | None) -> Move:
        """Keep what is about to move, before it moves; give the move with its id.

        It begins later than `after`, when the last one began, whatever the clocks say: the history is in the order of
        what happened.
        """
        now = time.time_ns() // 1_000_000
        begin = now if after is None else max(now, round(after.timestamp() * 1000) + 1)
        with foreign_errors(self.uri):
            tags = ui_tags(move.to_tags(), move.who)
            run = self._client.create_run(self._experiment(move.model), begin, tags=tags, run_name=move.title)
        return replace(move, id=run.info.run_id, state="unfinished")

    def end_move(self, move: Move, *, done: bool) -> Move:
        """Mark a move as done, or as moved back."""
        with foreign_errors(self.uri):
            self._client.set_terminated(move.id, "FINISHED" if done else "FAILED")
        return replace(move, state="done" if done else "undone")

    def moves(self, model: str) -> list[Move]:
        """All moves of a model's channels, newest first, those that were moved back or never finished included."""
        with foreign_errors(self.uri):
            experiment = self._client.get_experiment_by_name(model)
            if experiment is None:
                return []
            only = f"tags.`{KIND_TAG}` = '{MOVE_KIND}'"
            order = ["attributes.start_time DESC"]
            ask = partial(self._client.search_runs, [experiment.experiment_id], only, max_results=_PAGE, order_by=order)
            runs = list(pages(lambda token: ask(page_token=token)))
        return [
            move_from_tags(
                run.data.tags,
                run_id=run.info.run_id,
                model=model,
                when=datetime.fromtimestamp(run.info.start_time / 1000, UTC),
                state=_STATES.get(run.info.status, "unfinished"),
            )
            for run in runs
        ]

    @contextmanager
    def exclusive(self, who: str | None = None) -> Iterator[Check | None]:
        """Keep all others out who change the registry; gives None where it is a server, which has no such lock."""
        _ = self._client  # connects first, which takes a lock for a moment
        with exclusive(self.uri, Waiting(who or getpass.getuser(), LOCK_SECONDS, self.told)) as check:
            yield check

    @contextmanager
    def moving(self, model: str, who: str) -> Iterator[Check]:
        """Keep other movers of a model's channels out, by the registry's lock or a lease. Gives its check."""
        with self.exclusive(who) as check:
            if check is not None:
                yield check
                return
        with model_lease(self._client, self.uri, model, who, self.timing, self.told) as check:
            yield check

    def _check(self, entry: Registration) -> None:
        entry.check()
        digest = entry.manifest.digest
        if not self.store.has_bundle(digest):
            raise RegistryError(
                f"{entry.reference}: the store {self.store.uri} lacks bundle {digest}",
                fix="add the bundle to the store first, as phipack release does",
            )

    def _set_alias(self, name: str, alias: str, number: int | None) -> None:
        with foreign_errors(self.uri):
            if number is None:
                self._client.delete_registered_model_alias(name, alias)
            else:
                self._client.set_registered_model_alias(name, alias, str(number))

    def _renew_evidence(self, existing: CellVersion, entry: Registration) -> CellVersion:
        """Same bundle: nothing to do, unless its evidence was taken anew (gates may have changed); a run keeps each."""
        if existing.digest != entry.manifest.digest:
            raise entry.taken(existing)
        if existing.evidence == entry.evidence_digest:
            return existing
        with self._evidence_run(entry) as run_id, foreign_errors(self.uri):
            tags = entry.version_tags(run_id, existing.store)
            for tag in (RUN_TAG, GATES_TAG, EVIDENCE_TAG):  # its digest last: until then, the next try does all again
                self._client.set_model_version_tag(existing.registered_model, str(existing.number), tag, tags[tag])
        return replace(existing, evidence=entry.evidence_digest, gates_passed=entry.evidence.passed, run_id=run_id)

    def _evidence_run(self, entry: Registration) -> AbstractContextManager[str]:
        return evidence_run(self._client, self.uri, self._experiment(entry.model), entry)

    def _first_of_racers(self, entry: Registration, number: int) -> CellVersion:
        """MLflow lets two registrars add one release at once: the lower number counts, the other is taken back."""
        first = _registered_as(entry, self.versions(entry.model))
        if first is None or first.number == number:
            assert first is not None, "a version that was just made"
            return first
        with foreign_errors(self.uri):
            self._client.delete_model_version(first.registered_model, str(number))
        if first.digest != entry.manifest.digest:
            raise entry.taken(first)
        return first

    def _experiment(self, model: str) -> str:
        return experiment_id(self._client, model, artifact_place(self.uri, self.store.uri, model))

    def _registered(self, wanted: str) -> list[Any]:
        with foreign_errors(self.uri):
            return list(pages(lambda token: self._client.search_registered_models(wanted, _PAGE, page_token=token)))


def _registered_as(entry: Registration, rows: Sequence[CellVersion]) -> CellVersion | None:
    return next((row for row in rows if (row.cell, row.release) == (entry.cell, entry.version)), None)


def _cell_version(row: Any, channels: Sequence[str]) -> CellVersion:
    return version_from_tags(row.name, int(row.version), row.tags, created_ms=row.creation_timestamp, channels=channels)


def open_ledger(given_uri: str | None, store: Store, home: Path = DEFAULT_HOME, *, told: Told = silent) -> Ledger:
    """Name the ledger: `given_uri`, else `MLFLOW_TRACKING_URI`, else SQLite in `home`. Connects when first used."""
    return Ledger(tracking_uri(given_uri, home), store, told)
