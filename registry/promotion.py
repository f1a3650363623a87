"""Channels: promotion of a release, rollback, history.

A promotion moves the channel of every cell of a release, or of none. It is refused where a cell has no passing
evidence: the tag, and the evidence itself, read back and held against the bundle's digest. `promote_overriding` goes
ahead in spite of that, with a reason; what stood against it is kept with the move. Cells that the release does not have
keep what their channel holds. Who may move a channel is `roles.py`'s; no override gets round it.

A rollback takes back the last promotion that has not been taken back yet: the cells that it moved stand again where
they stood. Promote 1.0.0, 1.1.0, 1.2.0, roll back twice: 1.0.0. A rollback is a move and is kept as one.

All or none: the move is kept in MLflow first (RUNNING), then the aliases move, then it is marked FINISHED. An error in
between moves them back, and waits for a server that is away for some seconds. A process that dies in between leaves the
RUNNING record, which the next move undoes: beside a SQLite registry at once, as the lock shows that the process is
gone; on a server when its lease is stale (`lease.py`).
"""

from __future__ import annotations

import getpass
import platform
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

from registry.ledger.channel_moves import CellMove, Move, MoveKind, Stand, promotion_to_undo
from registry.ledger.lease import AwayError, Check
from registry.ledger.ledger import Ledger
from registry.ledger.reader import resolve_in
from registry.ledger.versions import CellVersion
from registry.roles import require_promoter
from registry.store.uris import open_store
from targets.errors import GateError, RegistryError
from targets.project import Roles
from targets.references import Reference, check_channel

_AWAY_SECONDS = 0.5  # between two tries to undo while the registry is away


def current_user() -> str:
    """Who promotes, unless somebody is named: USER@HOST."""
    return f"{getpass.getuser()}@{platform.node()}"


def promote(
    ledger: Ledger, reference: Reference, channel: str, *, who: str, why: str = "", roles: Roles | None = None
) -> Move:
    """Let `channel` point at what `reference` names: every cell of the release, or the one cell.

    Returns:
        The move; its `cells` are those that moved, none where all stood there already.

    Raises:
        GateError: a cell lacks passing evidence, a cell of the release's plan is not registered, or a bundle is not in
            its store. Nothing moved.
        RegistryError: the reference names nothing; `who` may not move this channel; MLflow failed. Nothing moved.
    """
    return _promote(ledger, reference, _draft("promotion", reference.model, channel, who, why), roles, override=False)


def promote_overriding(
    ledger: Ledger, reference: Reference, channel: str, *, who: str, why: str, roles: Roles | None = None
) -> Move:
    """Promote in spite of failing or missing evidence and of missing cells, for a reason; all of it is kept.

    Raises:
        GateError: a bundle is not in its store. Nothing moved.
        RegistryError: as `promote`, or no reason is given. Nothing moved.
    """
    if not why.strip():
        raise RegistryError("evidence is overridden for a reason only", fix="say why: --override --reason TEXT")
    return _promote(ledger, reference, _draft("promotion", reference.model, channel, who, why), roles, override=True)


def _promote(ledger: Ledger, reference: Reference, draft: Move, roles: Roles | None, *, override: bool) -> Move:
    check_channel(draft.channel)
    with ledger.moving(draft.model, draft.who) as check:
        moves = _settled(ledger, draft.model, check)
        promoters = require_promoter(draft.who, draft.channel, moves, roles)
        rows = ledger.versions(draft.model)
        versions = resolve_in(ledger, reference, rows)
        against, lacking = _against(ledger, reference, versions), _lacking_bytes(versions)
        if lacking or (against and not override):  # no override gives an app what the store lacks
            problems = "\n  ".join(sorted(against + lacking))
            raise GateError(
                f"{reference} is not promoted to {draft.channel}; nothing was moved:\n  {problems}",
                fix="see phipack show for the evidence; mend the cells and run phipack release again",
            )
        cells = []
        for version in versions:
            before = _stand(rows, version.cell, draft.channel)
            if before is None or before.number != version.number:
                cells.append(CellMove(version.cell, before, Stand.of(version), version.evidence))
        move = replace(draft, cells=tuple(cells), promoters=promoters, overrode=tuple(sorted(against)))
        return _carry_out(ledger, move, moves, check)


def rollback(ledger: Ledger, model: str, channel: str, *, who: str, why: str = "", roles: Roles | None = None) -> Move:
    """Take back the last promotion of the channel that still stands.

    Raises:
        RegistryError: there is no promotion to take back, or it was the first (a channel is never emptied); somebody
            moved an alias with another program since; a version to go back to is gone; `who` may not move this channel.
            Nothing moved.
    """
    check_channel(channel)
    with ledger.moving(model, who) as check:
        moves = _settled(ledger, model, check)
        promoters = require_promoter(who, channel, moves, roles)
        last = promotion_to_undo(moves, channel)
        if last is None or all(move.before is None for move in last.cells):
            raise RegistryError(
                f"{model}:{channel} has nothing before it to go back to",
                fix=f"promote what it is to be: phipack promote {model}:VERSION --to {channel}",
            )
        rows = ledger.versions(model)
        _require_untouched(rows, last)
        cells = tuple(
            CellMove(part.cell, part.after, part.before, _evidence_of(rows, part.cell, part.before))
            for part in last.cells
        )
        move = replace(_draft("rollback", model, channel, who, why), cells=cells, promoters=promoters, undoes=last.id)
        return _carry_out(ledger, move, moves, check)


def history(ledger: Ledger, model: str, *, channel: str | None = None, cell: str | None = None) -> list[Move]:
    """Give the moves of a model's channels, newest first; of one channel, or those that moved one cell.

    Moves that failed and were taken back at once (state "undone") are told too.
    """
    return [
        move
        for move in ledger.moves(model)
        if channel in (None, move.channel) and (cell is None or any(part.cell == cell for part in move.cells))
    ]


def _draft(kind: MoveKind, model: str, channel: str, who: str, why: str) -> Move:
    return Move("", kind, model, channel, who, why, datetime.now(UTC), ())


def _against(ledger: Ledger, reference: Reference, versions: Sequence[CellVersion]) -> list[str]:
    """What evidence says against a promotion: cells that are missing, and those that do not pass."""
    problems = []
    if reference.cell is None:
        for release in sorted({version.release for version in versions}):
            missing = set(ledger.planned_cells(reference.model, release)) - {version.cell for version in versions}
            problems += [f"{cell}: not registered for {release}, though the release is to have it" for cell in missing]
    for version in versions:
        problems += [f"{version.cell}: {problem}" for problem in _shortcomings(ledger, version)]
    return problems


def _shortcomings(ledger: Ledger, version: CellVersion) -> list[str]:
    """What stands against a cell, read from the evidence itself: a tag is easily changed by hand."""
    try:
        evidence = ledger.evidence(version)
    except RegistryError as error:
        return [error.problem]
    if evidence.bundle != version.digest:
        return [f"its evidence is of another bundle, {evidence.bundle}"]
    failed = evidence.shortcomings
    if not failed and not version.gates_passed:
        failed = ["its tag phipack.gates says failed"]
    return failed


def _lacking_bytes(versions: Sequence[CellVersion]) -> list[str]:
    return [
        f"{version.cell}: its store {version.store} lacks bundle {version.digest}, or blobs of it"
        for version in versions
        if not open_store(version.store).has_bundle(version.digest)
    ]


def _require_untouched(rows: Sequence[CellVersion], last: Move) -> None:
    numbers = {(row.cell, row.number) for row in rows}
    for move in last.cells:
        now = _stand(rows, move.cell, last.channel)
        if now != move.after:
            raise RegistryError(
                f"cell {move.cell}: {last.channel} was moved since, by another program than phipack",
                fix=f"promote what it is to be: phipack promote {last.model}:VERSION --to {last.channel}",
            )
        if move.before is not None and (move.cell, move.before.number) not in numbers:
            raise RegistryError(
                f"cell {move.cell}: MLflow's version {move.before.number} ({move.before.release}) was deleted",
                fix=f"promote another one: phipack promote {last.model}:VERSION --to {last.channel}",
            )


def _carry_out(ledger: Ledger, move: Move, before: Sequence[Move], check: Check) -> Move:
    """Record after the moves `before`, move, mark as done; on any error, interrupt included, move back what moved."""
    if not move.cells:
        return move
    for part in move.cells:  # before anything moves
        check()
        ledger.require_rights(move.model, part.cell, move.channel, None if part.before is None else part.before.number)
    check()
    move = ledger.begin_move(move, after=before[0].when if before else None)
    try:
        for part in move.cells:
            check()
            ledger.point(move.model, part.cell, move.channel, None if part.after is None else part.after.number)
        check()
        return ledger.end_move(move, done=True)
    except BaseException:
        _undo_persistently(ledger, move, check)
        raise


def _undo_persistently(ledger: Ledger, move: Move, check: Check) -> None:
    """Undo, and try on while the registry is away, until the lease is lost: then it is the next mover's."""
    while True:
        try:
            return _undo(ledger, move, check)
        except AwayError:
            time.sleep(_AWAY_SECONDS)
            with suppress(AwayError):
                check()


def _undo(ledger: Ledger, move: Move, check: Check) -> None:
    """Put every cell back that stands where the move wanted it, and mark the move as taken back."""
    rows = ledger.versions(move.model)
    for hidden in {part.cell for part in move.cells} - {row.cell for row in rows}:
        ledger.require_seen(move.model, hidden)
    for part in move.cells:
        if _stand(rows, part.cell, move.channel) == part.after != part.before:
            check()
            ledger.point(move.model, part.cell, move.channel, None if part.before is None else part.before.number)
    check()
    ledger.end_move(move, done=False)


def _settled(ledger: Ledger, model: str, check: Check) -> list[Move]:
    """Undo what dead processes left: the lock or lease is held, so none of them lives. Give all moves, newest first.

    No two moves begin at one moment. Records that do are one move's: MLflow's client had asked again for a record whose
    making was not answered. Its end is in one of them; the others are closed, and move nothing.
    """
    moves = ledger.moves(model)
    ended = {move.when for move in moves if move.state != "unfinished"}
    unfinished = [move for move in moves if move.state == "unfinished"]
    for move in unfinished:
        if move.when in ended:
            check()
            ledger.end_move(move, done=False)
        else:
            _undo(ledger, move, check)
    return ledger.moves(model) if unfinished else moves


def _stand(rows: Sequence[CellVersion], cell: str, channel: str) -> Stand | None:
    return next((Stand.of(row) for row in rows if row.cell == cell and channel in row.channels), None)


def _evidence_of(rows: Sequence[CellVersion], cell: str, stand: Stand | None) -> str | None:
    return next((row.evidence for row in rows if row.cell == cell and Stand.of(row) == stand), None)
