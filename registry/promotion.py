"""Channels: promotion of a release, rollback, history.

A promotion moves the channel of every cell of a release, or of none. It is refused where a cell has no passing
evidence: the tag, and the evidence itself, read back and held against the bundle's digest. Cells that the release does
not have keep what their channel holds.

A rollback takes back the last promotion that has not been taken back yet: the cells that it moved stand again where
they stood. Promote 1.0.0, 1.1.0, 1.2.0, roll back twice: 1.0.0. A rollback is a move and is kept as one.

All or none: the move is kept in MLflow first (RUNNING), then the aliases move, then it is marked FINISHED. An error in
between moves them back. A process that dies in between leaves the RUNNING record: beside a SQLite registry, whose lock
shows that the process is gone, the next move undoes it; on a server nobody can know, so the next move is refused and
says how to go on.
"""

from __future__ import annotations

import getpass
import platform
from collections.abc import Sequence
from datetime import UTC, datetime

from registry.ledger import Ledger
from registry.moves import CellMove, Move, Stand, promotion_to_undo
from registry.reading import resolve_in
from registry.store import open_store
from registry.versions import CellVersion
from targets.errors import GateError, RegistryError
from targets.references import Reference, check_channel


def current_user() -> str:
    """Who promotes, unless somebody is named: USER@HOST."""
    return f"{getpass.getuser()}@{platform.node()}"


def promote(ledger: Ledger, reference: Reference, channel: str, *, who: str, why: str = "") -> Move:
    """Let `channel` point at what `reference` names: every cell of the release, or the one cell.

    Returns:
        The move; its `cells` are those that moved, none where all stood there already.

    Raises:
        GateError: a cell lacks passing evidence, or a cell of the release's plan is not registered. Nothing moved.
        RegistryError: the reference names nothing; a bundle is not in its store; MLflow failed. Nothing moved.
    """
    check_channel(channel)
    with ledger.exclusive() as alone:
        _clear_unfinished(ledger, reference.model, alone=alone)
        versions = resolve_in(ledger, reference)
        _require_evidence(ledger, reference, channel, versions)
        rows = ledger.versions(reference.model)
        cells = []
        for version in versions:
            before = _stand(rows, version.cell, channel)
            if before is None or before.number != version.number:
                cells.append(CellMove(version.cell, before, Stand.of(version), version.evidence))
        move = Move("", "promotion", reference.model, channel, who, why, datetime.now(UTC), tuple(cells))
        return _carry_out(ledger, move, alone=alone)


def rollback(ledger: Ledger, model: str, channel: str, *, who: str, why: str = "") -> Move:
    """Take back the last promotion of the channel that still stands.

    Raises:
        RegistryError: there is no promotion to take back, or it was the first (a channel is never emptied); somebody
            moved an alias with another program since; a version to go back to is gone. Nothing moved.
    """
    check_channel(channel)
    with ledger.exclusive() as alone:
        _clear_unfinished(ledger, model, alone=alone)
        last = promotion_to_undo(ledger.moves(model), channel)
        if last is None or all(move.before is None for move in last.cells):
            raise RegistryError(
                f"{model}:{channel} has nothing before it to go back to",
                fix=f"promote what it is to be: phipack promote {model}:VERSION --to {channel}",
            )
        rows = ledger.versions(model)
        _require_untouched(rows, last)
        cells = tuple(CellMove(part.cell, part.after, part.before) for part in last.cells)
        move = Move("", "rollback", model, channel, who, why, datetime.now(UTC), cells, undoes=last.id)
        return _carry_out(ledger, move, alone=alone)


def history(ledger: Ledger, model: str, *, channel: str | None = None, cell: str | None = None) -> list[Move]:
    """Give the moves of a model's channels, newest first; of one channel, or those that moved one cell.

    Moves that failed and were taken back at once (state "undone") are told too.
    """
    return [
        move
        for move in ledger.moves(model)
        if channel in (None, move.channel) and (cell is None or any(part.cell == cell for part in move.cells))
    ]


def _require_evidence(ledger: Ledger, reference: Reference, channel: str, versions: Sequence[CellVersion]) -> None:
    problems = []
    if reference.cell is None:
        for release in sorted({version.release for version in versions}):
            missing = set(ledger.planned_cells(reference.model, release)) - {version.cell for version in versions}
            problems += [f"{cell}: not registered for {release}, though the release is to have it" for cell in missing]
    for version in versions:
        problems += [f"{version.cell}: {problem}" for problem in _shortcomings(ledger, version)]
    if problems:
        raise GateError(
            f"{reference} is not promoted to {channel}; nothing was moved:\n  " + "\n  ".join(sorted(problems)),
            fix="see phipack show for the evidence; mend the cells and run phipack release again",
        )


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
    if not open_store(version.store).has_bundle(version.digest):
        failed.append(f"its store {version.store} lacks bundle {version.digest}, or blobs of it")
    return failed


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


def _carry_out(ledger: Ledger, move: Move, *, alone: bool) -> Move:
    """Record, move, mark as done; on any error, interrupt included, move back what moved."""
    if not move.cells:
        return move
    move = ledger.begin_move(move)
    if not alone:
        _require_alone(ledger, move)
    try:
        for part in move.cells:
            ledger.point(move.model, part.cell, move.channel, None if part.after is None else part.after.number)
        return ledger.end_move(move, done=True)
    except BaseException:
        _undo(ledger, move)
        raise


def _undo(ledger: Ledger, move: Move) -> None:
    """Put every cell back that stands where the move wanted it, and mark the move as taken back."""
    rows = ledger.versions(move.model)
    for part in move.cells:
        if _stand(rows, part.cell, move.channel) == part.after != part.before:
            ledger.point(move.model, part.cell, move.channel, None if part.before is None else part.before.number)
    ledger.end_move(move, done=False)


def _clear_unfinished(ledger: Ledger, model: str, *, alone: bool) -> None:
    """Finish off what dead processes left: certain of it only while holding the lock."""
    if alone:
        for move in ledger.moves(model):
            if move.state == "unfinished":
                _undo(ledger, move)


def _require_alone(ledger: Ledger, mine: Move) -> None:
    """On a server: each mover records first and looks then, so of two at once at most one goes on."""
    for move in ledger.moves(mine.model):
        if move.state == "unfinished" and move.channel == mine.channel and move.id != mine.id:
            ledger.end_move(mine, done=False)
            raise RegistryError(
                f"{move.title}, begun by {move.who} at {move.when:%Y-%m-%d %H:%M:%S} UTC, is not finished",
                fix=f"wait for it; if its process died, run: mlflow runs delete --run-id {move.id}  and promote again",
            )


def _stand(rows: Sequence[CellVersion], cell: str, channel: str) -> Stand | None:
    return next((Stand.of(row) for row in rows if row.cell == cell and channel in row.channels), None)
