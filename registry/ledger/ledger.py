"""The ledger: versions, evidence, channels and their history, kept in MLflow. No other module writes there.

| phipack | MLflow |
|---|---|
| cell of a model | registered model `MODEL.CELL`, tags phipack.model, phipack.cell |
| a cell's version | model version: tags of `versions.py`; its source names the bundle: phipack-file:///STORE/sha256:… |
| its evidence | a run in the experiment MODEL: figures as metrics, evidence.json, manifest.json and report as files |
| a release | a run there, in which those of its cells are nested |
| channel | alias |
| a promotion, a rollback | a run in the experiment MODEL (`channel_moves.py`) |
| the cells that a release plans, who may move a channel | tags of the experiment MODEL (`release_plan.py`) |
| what a release is made from | tag phipack.inputs of each version (`release_inputs.py`) |

What exists is addressed by the names and numbers of its row, as MLflow lets people rename it; a name that was changed
is refused where a new row would come under the old one.

MLflow has no transactions: a version is made in one call, tags included, after all that it refers to; what an error
leaves is a run marked FAILED.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

from registry.ledger.channel_moves import KIND_TAG, MOVE_KIND, Move, MoveState, move_from_tags, promotion_of
from registry.ledger.evidence_runs import Alone, end_dead_runs, evidence_run, read_evidence, run_folders
from registry.ledger.lease import Check, Timing
from registry.ledger.mlflow_client import Mlflow
from registry.ledger.mlflow_lease import model_lease
from registry.ledger.mlflow_names import claim_name, existing_experiment, experiment_id, require_visible
from registry.ledger.registration import RENEWED, Registration, ui_tags
from registry.ledger.registry_lock import registry_lock, registry_wait
from registry.ledger.release_inputs import is_older, require_same_inputs
from registry.ledger.release_plan import Noted, noted, promoter_tags
from registry.ledger.tracking import artifact_location, tracking_uri
from registry.ledger.version_search import versions_in_channel, versions_of
from registry.ledger.versions import (
    DIGEST_TAG,
    EVIDENCE_TAG,
    GATES_TAG,
    INPUTS_TAG,
    MODEL_TAG,
    RUN_TAG,
    CellVersion,
    registered_model_name,
    require_own_name,
    time_of,
)
from registry.store.protocol import Store
from registry.store.uris import DEFAULT_HOME
from targets.errors import RegistryError
from targets.evidence import Evidence
from targets.progress import Notice, Progress, silent
from targets.references import Version, check_channel, check_name
from targets.secrets import shown, without_secrets
from targets.this_user import user_name

_SetAlias = Callable[[str, str, int | None], None]  # registered model, channel, number
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
    _experiments: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

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

    def versions(
        self, model: str | None = None, *, release: Version | None = None, copies: bool = False
    ) -> list[CellVersion]:
        """Return all versions of a model, or of all models, sorted by model, cell and release: see `Reader`."""
        return versions_of(self.mlflow, model, release, copies=copies)

    def in_channel(self, model: str, channel: str, cell: str | None = None) -> list[CellVersion]:
        """Return what a channel of a model points at, of all cells or of one: see `Reader`."""
        return versions_in_channel(self.mlflow, model, channel, cell)

    def register(self, entry: Registration) -> CellVersion:
        """Register a cell's version and return its row. The same bundle again is no error, and renews its evidence.

        Raises:
            RegistryError: the release has another bundle for this cell already, or cells made from something else; it
                was promoted without this cell; the bundle is not in the store; the evidence is another bundle's; the
                MLflow name is taken or was changed; MLflow refuses. No version is made.
        """
        self._check(entry)
        with self.exclusive() as check:
            rows, alone = self.versions(entry.model), self._alone(entry.model, check)
            require_own_name(entry.model, entry.cell, rows)
            experiment = self._experiment(entry.model, rows)
            end_dead_runs(self.mlflow, experiment, {row.run_id for row in rows}, alone=check is not None)
            require_same_inputs(entry.model, entry.version, entry.inputs, rows, cell=entry.cell)
            existing = _registered_as(entry, rows)
            if existing is not None:
                return self._renew_evidence(existing, entry, experiment, alone)
            self._require_open(entry, rows)
            with evidence_run(self.mlflow, experiment, entry, alone) as run_id:
                claim_name(self.mlflow, entry.model, entry.cell)  # whoever may not keep evidence claims no name
                number = self.mlflow.create_version(
                    registered_model_name(entry.model, entry.cell),
                    self.store.bundle_uri(entry.manifest.digest),
                    run_id,
                    entry.version_tags(run_id, self.store.uri),
                    entry.description,
                )
            return self._first_of_racers(entry, number)

    def evidence_folders(self, model: str, versions: Sequence[CellVersion]) -> Mapping[str, str]:
        """Return where MLflow puts the evidence of a model's versions, by the ID of its run, without asking for it."""
        experiment = self._existing_experiment(model)
        return {} if experiment is None else run_folders(experiment, [version.run_id for version in versions])

    def evidence(self, version: CellVersion, folder: str | None = None) -> Evidence:
        """Return a version's evidence, read back from MLflow. Raises `RegistryError` where it was changed since.

        `folder`: of `evidence_folders`. Where it is not found there, its run is asked for the place.
        """
        return read_evidence(self.mlflow, version, folder)

    def plan_release(
        self,
        model: str,
        version: Version,
        cells: Sequence[str],
        *,
        inputs: Mapping[str, str] | None = None,
        promoters: Mapping[str, Sequence[str]] | None = None,
        reason: str = "",
    ) -> None:
        """Note which cells a release plans: promotion of the whole release waits for them all.

        Args:
            model: the model.
            version: its release.
            cells: names of all its cells.
            inputs: what they will be made from, held to what the release's cells were made from.
            promoters: lists of who may move a channel, by channel, which hold from everywhere; None leaves them.
            reason: why it is made, which is noted without passwords; an empty one leaves what was noted.

        Raises:
            RegistryError: the release's cells are made from something else; or it was promoted, with another plan or
                reason.
        """
        check_name("model", model)
        with self.exclusive():
            rows = self.versions(model)
            require_same_inputs(model, version, inputs or {}, rows)
            experiment, tags = self._experiment(model, rows), self.notes(model)
            known, wanted = noted(tags, version), Noted(tuple(cells), without_secrets(reason))
            if not known.cells:
                known = replace(known, cells=tuple(row.cell for row in rows if row.release == version))
            if why := known.contradiction(wanted):
                self._require_not_promoted(model, version, why)
            changed = wanted.to_tags(version) | promoter_tags(tags, version, promoters)
            for name, value in changed.items():
                if tags.get(name) != value:
                    self.mlflow.set_experiment_tag(experiment, name, value)

    def notes(self, model: str) -> Mapping[str, str]:
        """Return the tags of the experiment MODEL, which `release_plan.py` reads; none where there is no experiment."""
        experiment = self._existing_experiment(model)
        return {} if experiment is None else dict(experiment.tags)

    def noted(self, model: str, version: Version) -> Noted:
        """Return which cells a release plans, and why it is made, as far as that was noted."""
        return noted(self.notes(model), version)

    def point(self, registered_model: str, channel: str, number: int | None) -> None:
        """Point a channel at MLflow's version `number`, or at nothing. `promotion.py` alone calls this.

        `registered_model`: MLflow's name, as its row has it.
        """
        check_channel(channel)
        self.mlflow.set_alias(registered_model, channel, number)

    def pointed_at(self, registered_model: str, channel: str) -> tuple[int, str] | None:
        """Return number and digest (empty: not phipack's) of what a channel points at in MLflow, whatever it is."""
        row = self.mlflow.version_by_alias(registered_model, channel)
        return None if row is None else (int(row.version), row.tags.get(DIGEST_TAG, ""))

    def require_rights(self, channel: str, numbers: Mapping[str, int | None], check: Check) -> None:
        """Set the channel to these numbers, where it is: MLflow refuses that to accounts that could not move it back.

        Taking back a cell's first promotion means deleting an alias, for which MLflow needs more than for setting one.
        """
        if self.uri.startswith("http"):
            self._set(self.mlflow.set_alias, channel, numbers, check)

    def point_all(self, channel: str, numbers: Mapping[str, int | None], check: Check) -> None:
        """Point a channel of several registered models at versions, or at nothing, as `point` does."""
        self._set(self.point, channel, numbers, check)

    def require_visible(self, registered_model: str) -> None:
        """Raise `RegistryError` where a cell that shows no versions is one that this account may not read."""
        require_visible(self.mlflow, registered_model)

    def begin_move(self, move: Move, *, after: datetime | None) -> Move:
        """Keep what is about to move, before it moves; return the move with its id.

        It begins later than `after`, when the last one began, whatever the clocks say: the history is in the order of
        what happened.
        """
        now = time.time_ns() // 1_000_000
        begin = now if after is None else max(now, round(after.timestamp() * 1000) + 1)
        tags = ui_tags(move.to_tags(), move.who)
        experiment = self._existing_experiment(move.model)
        experiment_id = experiment.experiment_id if experiment else self._experiment(move.model)
        run_id = self.mlflow.create_run(experiment_id, move.title, tags, begin)
        return replace(move, id=run_id, state="unfinished")

    def end_move(self, move: Move, *, done: bool) -> Move:
        """Mark a move as done, or as moved back."""
        self.mlflow.end_run(move.id, "FINISHED" if done else "FAILED")
        return replace(move, state="done" if done else "undone")

    def moves(self, model: str) -> list[Move]:
        """Return all moves of a model's channels, newest first, including those undone or never finished."""
        experiment = self._existing_experiment(model)
        if experiment is None:
            return []
        wanted = f"tags.`{KIND_TAG}` = '{MOVE_KIND}'"
        return [
            move_from_tags(
                run.data.tags,
                run_id=run.info.run_id,
                model=model,
                when=time_of(run.info.start_time, f"run {run.info.run_id}"),
                state=_STATES.get(run.info.status, "unfinished"),
            )
            for run in self.mlflow.runs(experiment.experiment_id, wanted, "attributes.start_time DESC")
        ]

    def moves_and_versions(self, model: str) -> tuple[list[Move], list[CellVersion]]:
        """Return what `moves` and `versions` do, asked for at once."""
        calls: list[Callable[[], Any]] = [partial(self.moves, model), partial(self.versions, model)]
        moves, versions = self.mlflow.at_once(calls)
        return moves, versions

    @contextmanager
    def exclusive(self, who: str | None = None) -> Iterator[Check | None]:
        """Keep out all others who change the registry; yields None where it is a server, which has no such lock."""
        self.mlflow.connect()  # first, as it takes a lock for a moment
        waiting = registry_wait(who or user_name(), self.on_progress)
        with registry_lock(self.uri, waiting) as check:
            yield check

    @contextmanager
    def moving(self, model: str, who: str) -> Iterator[Check]:
        """Keep out other movers of a model's channels, by the registry's lock or a lease. Yields its check."""
        with self.exclusive(who) as check:
            if check is not None:
                yield check
                return
        with model_lease(self.mlflow, model, who, self.timing, self.on_progress) as (check, experiment):
            # A move needs it several times; the lease has read it last, after all others were kept out.
            self._experiments[model] = experiment or self._existing_experiment(model)
            try:
                yield check
            finally:
                del self._experiments[model]

    def _set(self, call: _SetAlias, channel: str, numbers: Mapping[str, int | None], check: Check) -> None:
        """Make a call for each registered model, in groups. `check`: called before each, which leaves at once."""
        names = list(numbers)
        while names:
            group, names = names[: self.mlflow.connections], names[self.mlflow.connections :]
            check()
            self.mlflow.at_once([partial(call, name, channel, numbers[name]) for name in group])

    def _check(self, entry: Registration) -> None:
        entry.check()
        digest = entry.manifest.digest
        if not self.store.has_bundle(digest):
            raise RegistryError(
                f"{entry.reference}: bundle {digest} is not in the store {self.store.uri}",
                fix="add the bundle to the store first, as phipack release does",
            )

    def _renew_evidence(self, existing: CellVersion, entry: Registration, experiment: str, alone: Alone) -> CellVersion:
        """Same bundle: nothing to do, unless its evidence was measured again (gates may have changed).

        A promotion cites the evidence that it was decided on: once promoted, evidence that passed stays.
        """
        if existing.digest != entry.manifest.digest:
            raise entry.taken(existing)
        if existing.evidence == entry.evidence_digest:
            return existing
        if existing.gates_passed and promotion_of(self.moves(entry.model), entry.version, entry.cell) is not None:
            self.on_progress(Notice(f"{existing.reference} was promoted: the evidence that is registered stays"))
            return existing
        with evidence_run(self.mlflow, experiment, entry, alone) as run_id:
            tags = entry.version_tags(run_id, existing.store)
            self.mlflow.describe_version(existing.registered_model, existing.number, RENEWED)
            # No verdict stands over other evidence meanwhile. Its digest last: until then, the next try sets all again.
            for tag in (RUN_TAG, INPUTS_TAG, GATES_TAG, EVIDENCE_TAG):
                self.mlflow.set_version_tag(existing.registered_model, existing.number, tag, tags[tag])
            if entry.description:
                self.mlflow.describe_version(existing.registered_model, existing.number, entry.description)
        passed, digest = entry.evidence.passed, entry.evidence_digest
        return replace(existing, evidence=digest, gates_passed=passed, run_id=run_id, inputs=entry.inputs)

    def _alone(self, model: str, check: Check | None) -> Alone:
        """Return what keeps others out: the model's lease, where no lock of the whole registry is held already."""
        lease = partial(model_lease, self.mlflow, model, user_name(), self.timing, self.on_progress)
        return lease if check is None else nullcontext

    def _require_open(self, entry: Registration, rows: Sequence[CellVersion]) -> None:
        """Check that a new cell does not change a release that was promoted without planning it."""
        planned = [row.cell for row in rows if row.release == entry.version]
        if planned and entry.cell not in self.noted(entry.model, entry.version).cells:
            known = f"cell {entry.cell} is none of its cells, {', '.join(planned)}"
            self._require_not_promoted(entry.model, entry.version, known)

    def _require_not_promoted(self, model: str, version: Version, why: str) -> None:
        if (move := promotion_of(self.moves(model), version)) is not None:
            raise RegistryError(
                f"{model}:{version} was promoted to {move.channel} on {move.when:%Y-%m-%d} and stays as it was: {why};"
                " nothing was registered",
                fix="raise the version in phipack.toml: a release does not change once it is promoted",
            )

    def _first_of_racers(self, entry: Registration, number: int) -> CellVersion:
        """MLflow lets two processes add one release at once: the lower number counts, the other is taken back.

        So is a cell that was made from something else than a cell of the release that was added a moment before.
        """
        rows, name = self.versions(entry.model), registered_model_name(entry.model, entry.cell)
        first = _registered_as(entry, rows)
        assert first is not None, "a version that was just made"
        if first.number == number:
            try:
                older = [row for row in rows if is_older(row, first)]
                require_same_inputs(entry.model, entry.version, entry.inputs, older, cell=entry.cell)
            except RegistryError:
                self.mlflow.delete_version(name, number)
                raise
            return first
        self.mlflow.delete_version(name, number)
        if first.digest != entry.manifest.digest:
            raise entry.taken(first)
        return first

    def _existing_experiment(self, model: str) -> Any | None:
        if model in self._experiments:
            return self._experiments[model]
        return existing_experiment(self.mlflow, model, partial(self.versions, model))

    def _experiment(self, model: str, rows: Sequence[CellVersion] | None = None) -> str:
        location = artifact_location(self.uri, self.store.uri, model)
        return experiment_id(self.mlflow, model, location, lambda: self.versions(model) if rows is None else rows)


def _registered_as(entry: Registration, rows: Sequence[CellVersion]) -> CellVersion | None:
    return next((row for row in rows if (row.cell, row.release) == (entry.cell, entry.version)), None)


def open_ledger(
    given_uri: str | None, store: Store, home: Path = DEFAULT_HOME, *, on_progress: Progress = silent
) -> Ledger:
    """Return the ledger at `given_uri`, else `MLFLOW_TRACKING_URI`, else SQLite in `home`. Connects when first used."""
    return Ledger(tracking_uri(given_uri, home), store, on_progress)
