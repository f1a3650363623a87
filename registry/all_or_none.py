"""A move is carried out: all of its cells' aliases move, or none. `promotion.py` decides what moves.

The move is kept in MLflow first (RUNNING), then the aliases move, then they are read back and held to the digests that
were meant, then the move is marked FINISHED. An error in between moves them back, and waits for an unreachable server
for some seconds. A process that dies in between leaves the RUNNING record, which the next move undoes: at once where
the registry has a lock, which shows that the process is gone; on a server when its lease is stale (`lease.py`).

An alias is set at the name that the version's row has now, not at one made from model and cell: people rename
registered models in MLflow, and another may have the old name since.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress

from registry.ledger.channel_moves import CellMove, Move, VersionId, unended
from registry.ledger.lease import Check
from registry.ledger.ledger import Ledger
from registry.ledger.versions import CellVersion, registered_model_name, require_one_home
from targets.errors import RegistryError, RegistryUnreachableError
from targets.progress import Notice

_RETRY_SECONDS = 0.5  # between two tries to undo while the registry is unreachable


def pointed_at(rows: Sequence[CellVersion], cell: str, channel: str) -> VersionId | None:
    """Return the version of a cell that a channel points at."""
    return next((VersionId.of(row) for row in rows if row.cell == cell and channel in row.channels), None)


def carry_out(ledger: Ledger, move: Move, rows: Sequence[CellVersion], before: Sequence[Move], check: Check) -> Move:
    """Carry out a move, or move back on any error or interrupt what has moved.

    Args:
        ledger: the registry.
        move: what is to move; nothing is done where it has no cells.
        rows: the model's versions, as they were read for it.
        before: the model's moves, newest first.
        check: called before each change.

    Raises:
        RegistryError: a cell is in two registered models; MLflow refuses; after it, a channel points at other bytes.
    """
    if not move.cells:
        return move
    require_one_home([row for row in rows if row.cell in {part.cell for part in move.cells}])
    homes = {part.cell: _home(rows, part) for part in move.cells}
    here = {homes[part.cell]: _number(part.before) for part in move.cells}
    there = {homes[part.cell]: _number(part.after) for part in move.cells}
    ledger.require_rights(move.channel, here, check)  # before anything moves
    check()
    move = ledger.begin_move(move, after=before[0].when if before else None)
    try:
        ledger.point_all(move.channel, there, check)
        _require_moved(ledger.in_channel(move.model, move.channel), move)
        check()
        return ledger.end_move(move, done=True)
    except BaseException:
        _undo_persistently(ledger, move, check)
        raise


def settled(ledger: Ledger, model: str, check: Check) -> tuple[list[Move], list[CellVersion]]:
    """Undo what dead processes left (the lock or lease is held: none of them lives).

    Return all moves, newest first, and all versions, both as they are then. Records of a move that has ended in another
    one (`unended`) are closed, and move nothing.
    """
    moves, rows = ledger.moves_and_versions(model)
    broken_off = unended(moves)
    unfinished = [move for move in moves if move.state == "unfinished"]
    for move in unfinished:
        if move in broken_off:
            _undo(ledger, move, check)
            ledger.on_progress(Notice(f"the {move.title} by {move.who}, which broke off, was taken back"))
        else:
            check()
            ledger.end_move(move, done=False)
    return ledger.moves_and_versions(model) if unfinished else (moves, rows)


def _require_moved(rows: Sequence[CellVersion], move: Move) -> None:
    """Check what the aliases point at now against what was meant."""
    for part in move.cells:
        now = pointed_at(rows, part.cell, move.channel)
        if now != part.after:
            raise RegistryError(
                f"cell {part.cell}: after the move, {move.channel} points at {_named(now)}, not at {_named(part.after)}"
                ": another program changes the registry at this moment; all cells were moved back",
                fix=f"see phipack ls {move.model} and the cell's page in MLflow, then run the same command again",
            )


def _undo_persistently(ledger: Ledger, move: Move, check: Check) -> None:
    """Undo; try again while the registry is unreachable, until the lease is lost: then the next mover undoes it."""
    while True:
        try:
            return _undo(ledger, move, check)
        except RegistryUnreachableError:
            time.sleep(_RETRY_SECONDS)
            with suppress(RegistryUnreachableError):
                check()


def _undo(ledger: Ledger, move: Move, check: Check) -> None:
    """Move every cell back that is where the move wanted it, and mark the move as taken back."""
    rows = ledger.versions(move.model)
    for part in move.cells:
        if not any(row.cell == part.cell for row in rows):
            ledger.require_visible(_name_then(move.model, part))
    for part in move.cells:
        if part.before == part.after:
            continue
        if pointed_at(rows, part.cell, move.channel) == part.after:
            _require_there(rows, part, move)
            check()
            ledger.point(_home(rows, part), move.channel, _number(part.before))
        else:
            _take_off_stranger(ledger, move, part, check)
    check()
    ledger.end_move(move, done=False)


def _take_off_stranger(ledger: Ledger, move: Move, part: CellMove, check: Check) -> None:
    """Delete the alias where the move set it at other bytes: its registered model got another's name meanwhile."""
    if part.after is None or not part.after.registered_model:
        return
    number, digest = ledger.pointed_at(part.after.registered_model, move.channel) or (0, "")
    if number == part.after.number and digest != part.after.digest:
        check()
        ledger.point(part.after.registered_model, move.channel, None)


def _require_there(rows: Sequence[CellVersion], part: CellMove, move: Move) -> None:
    """Check that the version to move back to is still there. An alias can't point at a version that was deleted."""
    if part.before is None or any(row.cell == part.cell and VersionId.of(row) == part.before for row in rows):
        return
    raise RegistryError(
        f"cell {part.cell}: the unfinished {move.title} can't be taken back: MLflow's version {part.before.number}"
        f" ({part.before.release}), which {move.channel} pointed at, was deleted",
        fix=f"remove its record, mlflow runs delete --run-id {move.id}, then promote the version that you want",
    )


def _home(rows: Sequence[CellVersion], part: CellMove) -> str:
    """Return the name of a cell's registered model, as the rows have it: where it moves to, or else comes from."""
    wanted = [version for version in (part.after, part.before) if version is not None]
    for version in wanted:
        for row in rows:
            if row.cell == part.cell and VersionId.of(row) == version:
                return row.registered_model
    raise RegistryError(
        f"cell {part.cell}: {' and '.join(map(_named, wanted))} can't be found in MLflow any more",
        fix="see phipack ls, and promote the version that you want",
    )


def _name_then(model: str, part: CellMove) -> str:
    """Return the name of a cell's registered model as the move has kept it; older records have none."""
    for version in (part.after, part.before):
        if version is not None and version.registered_model:
            return version.registered_model
    return registered_model_name(model, part.cell)


def _number(version: VersionId | None) -> int | None:
    return None if version is None else version.number


def _named(version: VersionId | None) -> str:
    return "nothing" if version is None else f"{version.release} ({version.digest}, MLflow's version {version.number})"
