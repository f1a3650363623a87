"""Forms of `ls`, `show`, `promote`, `retire`, `rollback`, `history`, `publish`, `keys`, `gc`, `registry relocate`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from phipack.api.results import RegisteredCell
from phipack.json_form.form import FailureForm, Form, failure_forms, moment
from registry.garbage import Collected
from registry.ledger.channel_moves import CellMove, Move, VersionId
from registry.ledger.versions import CellVersion
from registry.publication import Publication, PublishedCell
from targets.evidence import Evidence
from targets.measurement import Measurement

if TYPE_CHECKING:
    from registry.catalog.signing import KeyFolder, Role
    from registry.ledger.relocation import Relocation

RoleName = Literal["root", "targets", "snapshot", "timestamp"]


class VersionForm(Form):
    """A cell's bundle in one version of a model."""

    reference: str = Field(description="MODEL:VERSION@CELL")
    model: str
    version: str
    cell: str
    target: str
    recipe: str
    calibration: str = Field(description="none, light or full")
    budget: str | None = Field(description="the size that was asked for: `at most 2000000000 B` or `4.2 bits`")
    kv_cache: str | None = Field(description="type of keys and values to open it with; null: the format's own")
    digest: str
    checkpoint: str = Field(description="digest of the checkpoint, sha256:…")
    gates_passed: bool
    channels: list[str] = Field(description="channels that point here now")
    created: str
    registered_model: str = Field(description="the cell's name in MLflow")
    number: int = Field(description="MLflow's own version of it")
    run_id: str = Field(description="MLflow's run that holds the evidence")
    evidence_digest: str
    store: str = Field(description="URI of the store that has the bundle")
    inputs: dict[str, str] = Field(description="what it was made from: checkpoint, tools, settings of the evaluation")


class VersionsForm(Form):
    """What is registered."""

    versions: list[VersionForm]


class ShownCellForm(VersionForm):
    """A cell's bundle with its evidence."""

    evidence: Evidence
    measurements: list[Measurement] = Field(description="on devices, that the store has of the bundle by now")
    run: str = Field(description="where report and evidence are: a page of MLflow's server, else the run's URI")
    reason: str | None = Field(description="why its release is made, by its project file")


class ShownForm(Form):
    """The cells that a reference stands for."""

    cells: list[ShownCellForm]


class ChannelPositionForm(Form):
    """What a channel points at, for one cell."""

    version: str
    number: int = Field(description="MLflow's own version")
    digest: str
    registered_model: str = Field(description="the cell's name in MLflow then; empty in old records")


class UnmovedCellForm(Form):
    """A cell that a promotion left alone."""

    cell: str
    at: ChannelPositionForm


class CellMoveForm(Form):
    """One cell's part in a move; null where the channel held nothing for it."""

    cell: str
    before: ChannelPositionForm | None
    after: ChannelPositionForm | None
    evidence_digest: str | None
    run_id: str | None = Field(description="MLflow's run with evidence and report of what was promoted")
    run: str | None = Field(description="where that is: a page of MLflow's server, else the run's URI")


class MoveForm(Form):
    """A promotion, a retirement of a cell, or a rollback."""

    id: str = Field(description="MLflow's run that keeps it; empty where nothing had to move")
    kind: Literal["promotion", "retirement", "rollback"]
    title: str
    model: str
    channel: str
    user: str
    reason: str
    when: str
    state: Literal["done", "undone", "unfinished"]
    undoes: str | None = Field(description="id of the move that a rollback took back")
    new_channel: bool = Field(description="the channel pointed at nothing before this promotion")
    promoters: list[str] | None = Field(description="the list that allowed it; null where none is set")
    overridden: list[FailureForm] = Field(description="what a promotion went ahead in spite of")
    cells: list[CellMoveForm] = Field(description="the cells that moved")
    unmoved: list[UnmovedCellForm] = Field(description="cells of the channel that a promoted release does not have")


class HistoryForm(Form):
    """The moves of a model's channels, newest first."""

    moves: list[MoveForm]


class StageForm(Form):
    """A version in a staged rollout."""

    version: str
    rollout_percent: float


class PublishedCellForm(Form):
    """A cell of a published channel."""

    cell: str
    target: str
    recipe: str
    digest: str
    size_bytes: int
    stages: list[StageForm] = Field(description="newest first")
    deltas: int = Field(description="how many deltas lead to the bundle")
    earlier: list[str] = Field(description="releases for apps whose runtimes can't run the others, newest first")
    changed: bool = Field(description="false where it was published so before")


class PublishForm(Form):
    """A channel that was published. After `expires`, clients refuse the catalog."""

    model: str
    channel: str
    catalog: str
    expires: str
    cells: list[PublishedCellForm]
    dropped: list[str] = Field(description="cells that the channel had when it was published before, and has no more")
    new_catalog: bool = Field(description="nothing was published at this place before")


class RefreshForm(Form):
    """A catalog that was signed again."""

    catalog: str
    expires: str


class KeyForm(Form):
    """A key. `signer`: where its private half is; null where that is not known here."""

    id: str
    signer: str | None


class RoleForm(Form):
    """A role: `threshold` of its keys must sign."""

    role: RoleName
    threshold: int
    expiry_days: int
    keys: list[KeyForm]


class KeysForm(Form):
    """A folder of keys, and the newest version of the root."""

    path: str
    root_version: int
    root_expires: str
    roles: list[RoleForm]


class BlobForm(Form):
    """A blob of a store."""

    digest: str
    size_bytes: int


class GarbageForm(Form):
    """What was removed from a store; in a dry run, what would be."""

    store: str
    dry_run: bool
    removed: list[BlobForm]
    removed_bytes: int
    leftovers: int = Field(description="files of broken writes that were removed")
    records: int = Field(description="records of jobs whose bundles are gone that were removed")
    kept: int = Field(description="blobs that stay")


class RelocatedForm(Form):
    """A version that was re-pointed, and the store that it was in before."""

    reference: str
    digest: str
    before: str


class RelocationForm(Form):
    """What was re-pointed to a store; in a dry run, what would be."""

    store: str
    dry_run: bool
    moved: list[RelocatedForm]
    kept: int = Field(description="versions that were left alone")


def versions_form(versions: Sequence[CellVersion]) -> VersionsForm:
    """Describe versions."""
    return VersionsForm(versions=[version_form(version) for version in versions])


def version_form(version: CellVersion) -> VersionForm:
    """Describe one version."""
    return VersionForm(
        reference=version.reference,
        model=version.model,
        version=str(version.release),
        cell=version.cell,
        target=version.target,
        recipe=version.recipe,
        calibration=version.calibration,
        budget=version.budget,
        kv_cache=version.kv_cache or None,
        digest=version.digest,
        checkpoint=version.checkpoint,
        gates_passed=version.gates_passed,
        channels=list(version.channels),
        created=moment(version.created),
        registered_model=version.registered_model,
        number=version.number,
        run_id=version.run_id,
        evidence_digest=version.evidence,
        store=version.store,
        inputs=dict(version.inputs),
    )


def shown_form(cells: Sequence[RegisteredCell]) -> ShownForm:
    """Describe cells with their evidence."""
    return ShownForm(
        cells=[
            ShownCellForm(
                **version_form(one.version).model_dump(),
                evidence=one.evidence,
                measurements=list(one.measurements),
                run=one.run,
                reason=one.reason or None,
            )
            for one in cells
        ]
    )


def move_form(move: Move, link: Callable[[str], str]) -> MoveForm:
    """Describe a move. `link`: returns where a run is (`Registry.run_link`)."""
    return MoveForm(
        id=move.id,
        kind=move.kind,
        title=move.title,
        model=move.model,
        channel=move.channel,
        user=move.who,
        reason=move.why,
        when=moment(move.when),
        state=move.state,
        undoes=move.undoes,
        new_channel=move.new_channel,
        promoters=None if move.promoters is None else list(move.promoters),
        overridden=failure_forms(move.overrode),
        cells=[_cell_move_form(cell, link) for cell in move.cells],
        unmoved=[UnmovedCellForm(cell=one.cell, at=_at(one.at)) for one in move.unmoved],
    )


def history_form(moves: Sequence[Move], link: Callable[[str], str]) -> HistoryForm:
    """Describe moves. `link`: as `move_form` takes it."""
    return HistoryForm(moves=[move_form(move, link) for move in moves])


def publish_form(published: Publication, catalog: str) -> PublishForm:
    """Describe what was published at `catalog`."""
    return PublishForm(
        model=published.model,
        channel=published.channel,
        catalog=catalog,
        expires=moment(published.expires),
        cells=[_published_form(cell) for cell in published.cells],
        dropped=list(published.dropped),
        new_catalog=published.new_catalog,
    )


def refresh_form(catalog: str, expires: datetime) -> RefreshForm:
    """Describe a catalog that was signed again."""
    return RefreshForm(catalog=catalog, expires=moment(expires))


def keys_form(folder: KeyFolder) -> KeysForm:
    """Describe a folder of keys."""
    from registry.catalog.signing import ROLES

    root = folder.root.signed
    return KeysForm(
        path=str(folder.path),
        root_version=root.version,
        root_expires=moment(root.expires),
        roles=[_role_form(folder, role) for role in ROLES],
    )


def garbage_form(found: Collected, store: str, *, dry_run: bool) -> GarbageForm:
    """Describe what was removed."""
    return GarbageForm(
        store=store,
        dry_run=dry_run,
        removed=[BlobForm(digest=blob.digest, size_bytes=blob.bytes) for blob in found.removed],
        removed_bytes=found.bytes,
        leftovers=found.leftovers,
        records=found.records,
        kept=found.kept,
    )


def relocation_form(found: Relocation, *, dry_run: bool) -> RelocationForm:
    """Describe what was re-pointed."""
    return RelocationForm(
        store=found.store,
        dry_run=dry_run,
        moved=[RelocatedForm(reference=row.reference, digest=row.digest, before=row.store) for row in found.moved],
        kept=found.kept,
    )


def _cell_move_form(cell: CellMove, link: Callable[[str], str]) -> CellMoveForm:
    return CellMoveForm(
        cell=cell.cell,
        before=_position(cell.before),
        after=_position(cell.after),
        evidence_digest=cell.evidence,
        run_id=cell.run_id or None,
        run=link(cell.run_id) if cell.run_id else None,
    )


def _position(version: VersionId | None) -> ChannelPositionForm | None:
    return None if version is None else _at(version)


def _at(version: VersionId) -> ChannelPositionForm:
    return ChannelPositionForm(
        version=version.release,
        number=version.number,
        digest=version.digest,
        registered_model=version.registered_model,
    )


def _published_form(cell: PublishedCell) -> PublishedCellForm:
    return PublishedCellForm(
        cell=cell.name,
        target=cell.target,
        recipe=cell.recipe,
        digest=cell.bundle,
        size_bytes=cell.bytes,
        stages=[StageForm(version=one.release, rollout_percent=one.basis_points / 100) for one in cell.stages],
        deltas=cell.deltas,
        earlier=list(cell.earlier),
        changed=cell.changed,
    )


def _role_form(folder: KeyFolder, role: Role) -> RoleForm:
    entry = folder.root.signed.roles[role]
    return RoleForm(
        role=role,
        threshold=entry.threshold,
        expiry_days=folder.keys.expiry_days[role],
        keys=[KeyForm(id=keyid, signer=folder.keys.signers.get(keyid)) for keyid in entry.keyids],
    )
