"""Channels: promotion of a release, retirement of a cell, rollback, history.

A promotion moves the channel of every cell of a release, or of none. It is refused where a cell has no passing
evidence: the tag, and the evidence itself, read back and checked against the bundle's digest. With an override's reason
it goes ahead nevertheless, and the move keeps what was overridden. Cells that the release does not have keep what their
channel points at, and the move names them. A channel that is not there is made where its name is no slip of another's
(`channel_names.py`). Who may move a channel is `roles.py`'s; no override changes that.

A retirement takes one cell out of a channel.

A rollback takes back the last promotion or retirement that has not been taken back yet: the channel of the cells that
it moved points where it pointed before. Promote 1.0.0, 1.1.0, 1.2.0, roll back twice: 1.0.0. The first promotion is
taken back only where that is asked for in so many words, as nothing is left then. A rollback is a move and is kept as
one. How moves are carried out, all cells or none: `all_or_none.py`.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from registry.all_or_none import carry_out, pointed_at, settled
from registry.channel_names import require_meant, unknown_channel
from registry.ledger.channel_moves import CellMove, Move, MoveKind, UnmovedCell, VersionId, move_to_undo
from registry.ledger.evidence_reading import evidence_of
from registry.ledger.ledger import Ledger
from registry.ledger.reader import resolve_in
from registry.ledger.release_plan import noted
from registry.ledger.versions import CellVersion, channels_at, unknown_model
from registry.roles import require_promoter
from registry.store.protocol import Store
from registry.store.uris import open_store
from targets.errors import Failure, GateError, PhipackError, RegistryError, closest
from targets.evidence import Evidence
from targets.project import Roles
from targets.references import Reference, check_channel
from targets.this_user import user_name


def current_user() -> str:
    """Return who promotes, unless another name is given: USER@HOST."""
    return f"{user_name()}@{platform.node()}"


def promote(  # noqa: PLR0913 - a move is kept with all of them
    ledger: Ledger,
    reference: Reference,
    channel: str,
    *,
    who: str,
    why: str = "",
    roles: Roles | None = None,
    override_reason: str | None = None,
    new_channel: bool = False,
) -> Move:
    """Point `channel` at what `reference` names: every cell of the release, or the one cell.

    Args:
        ledger: the registry.
        reference: the release, or one cell of it.
        channel: what moves.
        who: kept with the move, and looked up in `roles`.
        why: kept with the move.
        roles: the project file's lists of promoters, which hold in addition to those that the registry has.
        override_reason: promote in spite of failing or missing evidence and of missing cells, for this reason. It is
            kept with the move as its `why`, and what was overridden as its `overrode`.
        new_channel: the channel may be a new one whose name is nearly that of another.

    Returns:
        The move; its `cells` are those that moved, none where all were there already. `unmoved`: cells of the channel
        that the release does not have. `new_channel`: the channel pointed at nothing.

    Raises:
        GateError: a cell has no passing evidence, or a cell that the release plans is not registered (unless
            overridden), or a bundle is not in its store. `failures` has all of it. Nothing moved.
        RegistryError: no version matches; `who` may not move this channel; its name seems misspelt; the override has no
            reason; MLflow failed. Nothing moved.
        StoreUnreachableError: whether the bundles are there can't be seen. Nothing moved.
    """
    check_channel(channel)
    if override_reason is not None and not override_reason.strip():
        raise RegistryError("an override needs a reason", fix="say why: --override --reason TEXT")
    _require_registry(ledger, reference.model)
    draft = _draft("promotion", reference.model, channel, who, override_reason or why)
    with ledger.moving(draft.model, draft.who) as check:
        moves, rows = settled(ledger, draft.model, check)
        notes, standing = ledger.notes(draft.model), channels_at(rows)
        if rows and not new_channel:
            require_meant(draft.model, channel, standing, roles)
        promoters = require_promoter(draft.who, draft.channel, moves, roles, notes)
        wanted = _Wanted(reference, channel, resolve_in(ledger, reference, rows), rows)
        overrode = _overridden(ledger, wanted, notes, may_override=override_reason is not None)
        move = replace(
            draft,
            cells=wanted.cells,
            promoters=promoters,
            overrode=overrode,
            unmoved=wanted.unmoved,
            new_channel=channel not in standing,
        )
        return carry_out(ledger, move, rows, moves, check)


@dataclass(frozen=True)
class _Wanted:
    """A promotion that is asked for. `versions`: what the reference matches among `rows`, the model's versions."""

    reference: Reference
    channel: str
    versions: Sequence[CellVersion]
    rows: Sequence[CellVersion]

    @property
    def cells(self) -> tuple[CellMove, ...]:
        """The moves of the cells that are not there already."""
        moves = []
        for version in self.versions:
            before = pointed_at(self.rows, version.cell, self.channel)
            if before != VersionId.of(version):
                here = VersionId.of(version)
                moves.append(CellMove(version.cell, before, here, version.evidence, version.run_id))
        return tuple(moves)

    @property
    def unmoved(self) -> tuple[UnmovedCell, ...]:
        """The channel's cells that a whole release does not have."""
        if self.reference.cell is not None:
            return ()
        chosen = {version.cell for version in self.versions}
        standing = [row for row in self.rows if self.channel in row.channels and row.cell not in chosen]
        return tuple(UnmovedCell(row.cell, VersionId.of(row)) for row in standing)


def retire(
    ledger: Ledger, reference: Reference, channel: str, *, who: str, why: str = "", roles: Roles | None = None
) -> Move:
    """Take a cell, `MODEL@CELL`, out of a channel. Its versions stay registered.

    Raises:
        RegistryError: the reference names more or less than a cell; the channel does not point at a version of it;
            `who` may not move this channel; MLflow failed. Nothing moved.
    """
    check_channel(channel)
    cell, model = reference.cell, reference.model
    if cell is None or Reference(model, cell=cell) != reference:
        raise RegistryError(
            f"{reference} is not a cell: what is retired has neither version nor channel in its name",
            fix=f"write {model}@{cell or 'CELL'}, and name the channel with --from",
        )
    _require_registry(ledger, model)
    with ledger.moving(model, who) as check:
        moves, rows = settled(ledger, model, check)
        promoters = require_promoter(who, channel, moves, roles, ledger.notes(model))
        if not rows:
            raise unknown_model(model, ledger.models(), ledger.describe())
        before = pointed_at(rows, cell, channel)
        if before is None:
            if (unknown := unknown_channel(model, channel, rows, moves)) is not None:
                raise unknown
            there = sorted({row.cell for row in rows if channel in row.channels})
            near = None if cell in {row.cell for row in rows} else closest(cell, there)
            see = "see" if near is None else f"did you mean {near!r}? See"
            drop = f"phipack publish {model} --channel {channel} --drop {cell}"
            raise RegistryError(
                f"{model}:{channel} does not point at a version of cell {cell}, but at {', '.join(there) or 'nothing'}",
                fix=f"{see} phipack history {model}; to drop what is still published: {drop}",
            )
        draft = _draft("retirement", model, channel, who, why)
        move = replace(draft, cells=(CellMove(cell, before, None),), promoters=promoters)
        return carry_out(ledger, move, rows, moves, check)


def rollback(  # noqa: PLR0913 - as above
    ledger: Ledger,
    model: str,
    channel: str,
    *,
    who: str,
    why: str = "",
    roles: Roles | None = None,
    empty: bool = False,
) -> Move:
    """Take back the last promotion or retirement of the channel that was not taken back yet.

    `empty`: also the first promotion, after which the channel points at nothing.

    Raises:
        RegistryError: there is no such model; there is nothing to take back, or it is the first promotion and not
            `empty`; an alias was moved by another program since; a version to go back to is gone; `who` may not move
            this channel. Nothing moved.
    """
    check_channel(channel)
    _require_registry(ledger, model)
    with ledger.moving(model, who) as check:
        moves, rows = settled(ledger, model, check)
        promoters = require_promoter(who, channel, moves, roles, ledger.notes(model))
        last = move_to_undo(moves, channel)
        if not rows and not moves:
            raise unknown_model(model, ledger.models(), ledger.describe())
        if last is None and (unknown := unknown_channel(model, channel, rows, moves)) is not None:
            raise unknown
        if last is None or (not empty and all(move.before is None for move in last.cells)):
            first = f"; to take back the first: phipack rollback {model} --channel {channel} --empty" if last else ""
            raise RegistryError(
                f"{model}:{channel}: no earlier promotion to roll back to",
                fix=f"promote the version that you want: phipack promote {model}:VERSION --to {channel}{first}",
            )
        _require_untouched(rows, last)
        cells = tuple(
            CellMove(part.cell, part.after, part.before, *_evidence_of(rows, part.cell, part.before))
            for part in last.cells
        )
        move = replace(_draft("rollback", model, channel, who, why), cells=cells, promoters=promoters, undoes=last.id)
        return carry_out(ledger, move, rows, moves, check)


def history(ledger: Ledger, model: str, *, channel: str | None = None, cell: str | None = None) -> list[Move]:
    """Return the moves of a model's channels, newest first; of one channel, or those that moved one cell.

    Moves that failed and were taken back at once (state "undone") are among them.
    """
    return [
        move
        for move in ledger.moves(model)
        if channel in (None, move.channel) and (cell is None or any(part.cell == cell for part in move.cells))
    ]


def _require_registry(ledger: Ledger, model: str) -> None:
    """Raise `RegistryError` where there is no registry: a move would create one."""
    if not ledger.exists():
        raise unknown_model(model, (), ledger.describe())


def _draft(kind: MoveKind, model: str, channel: str, who: str, why: str) -> Move:
    return Move("", kind, model, channel, who, why, datetime.now(UTC), ())


def _overridden(
    ledger: Ledger, wanted: _Wanted, notes: Mapping[str, str], *, may_override: bool
) -> tuple[Failure, ...]:
    """Return what stands against a promotion, and is overridden; nothing where it simply passes.

    Raises `GateError` where that may not be, or where a bundle is missing: no override gives an app what the store does
    not have.
    """
    reference, versions = wanted.reference, wanted.versions
    overridable = [*_missing_cells(notes, reference, versions, wanted.rows), *_evidence_failures(ledger, versions)]
    missing_bytes = _missing_bytes(versions)
    if missing_bytes or (overridable and not may_override):
        fix = f"see phipack show {reference} for the evidence; fix these cells and run phipack release again"
        if missing_bytes and _lie_elsewhere(ledger.store, versions):
            fix = f"if the store was moved to {ledger.store.uri}, run phipack registry relocate"
        raise _refusal(reference, wanted.channel, [*overridable, *missing_bytes], fix)
    return tuple(sorted(overridable, key=_by_cell))


def _refusal(reference: Reference, channel: str, failures: Sequence[Failure], fix: str) -> GateError:
    failures = sorted(failures, key=_by_cell)
    problems = "\n  ".join(f"{failure.cell}: {failure.problem}" for failure in failures)
    return GateError(
        f"{reference} is not promoted to {channel}; nothing was moved:\n  {problems}",
        failures=failures,
        fix=fix,
    )


def _by_cell(failure: Failure) -> tuple[str, str]:
    return failure.cell, failure.problem


def _missing_cells(
    notes: Mapping[str, str], reference: Reference, versions: Sequence[CellVersion], rows: Sequence[CellVersion]
) -> list[Failure]:
    """Return the cells that the releases among `versions` plan, and that are not among them."""
    if reference.cell is not None:
        return []
    chosen = {version.cell for version in versions}
    failures = []
    for release in sorted({version.release for version in versions}):
        registered = {row.cell for row in rows if row.release == release}
        for cell in sorted(set(noted(notes, release).cells) - chosen):
            if cell in registered:  # the reference is a channel, which does not point at it
                problem = f"registered for {release}, but {reference} does not have this cell"
            else:
                problem = f"not registered for {release}, which plans this cell"
            failures.append(Failure(cell, problem))
    return failures


def _evidence_failures(ledger: Ledger, versions: Sequence[CellVersion]) -> list[Failure]:
    found = zip(versions, evidence_of(ledger, versions), strict=True)
    return [Failure(version.cell, problem) for version, one in found for problem in _shortcomings(version, one)]


def _shortcomings(version: CellVersion, evidence: Evidence | PhipackError) -> list[str]:
    """Return why a cell does not pass, by the evidence itself: a tag is easily changed by hand."""
    if isinstance(evidence, PhipackError):
        return [evidence.problem]
    if evidence.bundle != version.digest:
        return [f"its evidence is of another bundle, {evidence.bundle}"]
    failed = evidence.shortcomings
    if not failed and not version.gates_passed:
        failed = ["its tag phipack.gates says failed"]
    return failed


def _missing_bytes(versions: Sequence[CellVersion]) -> list[Failure]:
    return [
        Failure(version.cell, f"bundle {version.digest}, or a part of it, is not in its store {version.store}")
        for version in versions
        if not open_store(version.store).has_bundle(version.digest)
    ]


def _lie_elsewhere(store: Store, versions: Sequence[CellVersion]) -> bool:
    """Return True where a version was registered in another store than this one, which has its bundle."""
    return any(version.store != store.uri and store.has_bundle(version.digest) for version in versions)


def _require_untouched(rows: Sequence[CellVersion], last: Move) -> None:
    numbers = {(row.cell, row.number) for row in rows}
    for move in last.cells:
        now = pointed_at(rows, move.cell, last.channel)
        if now != move.after:
            raise RegistryError(
                f"cell {move.cell}: {last.channel} was moved since, by another program than phipack",
                fix=f"promote the version that you want: phipack promote {last.model}:VERSION --to {last.channel}",
            )
        if move.before is not None and (move.cell, move.before.number) not in numbers:
            raise RegistryError(
                f"cell {move.cell}: MLflow's version {move.before.number} ({move.before.release}) was deleted",
                fix=f"promote another one: phipack promote {last.model}:VERSION --to {last.channel}",
            )


def _evidence_of(rows: Sequence[CellVersion], cell: str, version: VersionId | None) -> tuple[str | None, str]:
    """Return the digest of a version's evidence, and the run that has it."""
    found = ((row.evidence, row.run_id) for row in rows if row.cell == cell and VersionId.of(row) == version)
    return next(found, (None, ""))
