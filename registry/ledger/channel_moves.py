"""Moves of channels: what a promotion, a retirement or a rollback changed, as it is kept in MLflow. Pure.

A move is a run in the experiment MODEL, visible and searchable there:

    run name   promotion of 1.1.0 to production
    status     RUNNING while the aliases move, FINISHED when all have moved, FAILED when they were moved back
    tags       phipack.kind = move, phipack.move = promotion | retirement | rollback, phipack.channel, phipack.who,
               phipack.why,
               phipack.undoes = ID of the move that a rollback took back,
               phipack.promoters = ["alice", …], the list that allowed it; no tag: no list was set,
               phipack.new_channel = true, where the channel pointed at nothing before a promotion,
               phipack.overrode = [{"cell": "pixel-9", "problem": "kl_mean is 0.2, …"}, …], what an override ignored,
               phipack.cell.CELL = {"before": VERSION, "after": VERSION, "evidence": sha256:…, "run": ID of the run with
               that evidence and its report}, for each cell that moved
               phipack.unmoved.CELL = VERSION, for each cell of the channel that a promoted release does not have
               where VERSION is {"release": 1.0.0, "number": MLflow's own, "digest": sha256:…, "registered_model": its
               name when it was read} or null
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any, Literal, get_args

from registry.ledger.versions import CELL_TAG, TAG_PREFIX, CellVersion
from targets.errors import Failure, RegistryError
from targets.references import Version
from targets.strict_json import parse_json

KIND_TAG = TAG_PREFIX + "kind"
MOVE_TAG = TAG_PREFIX + "move"
CHANNEL_TAG = TAG_PREFIX + "channel"
WHO_TAG = TAG_PREFIX + "who"
WHY_TAG = TAG_PREFIX + "why"
UNDOES_TAG = TAG_PREFIX + "undoes"
UNMOVED_TAG = TAG_PREFIX + "unmoved"
PROMOTERS_TAG = TAG_PREFIX + "promoters"
NEW_CHANNEL_TAG = TAG_PREFIX + "new_channel"
OVERRODE_TAG = TAG_PREFIX + "overrode"
MOVE_KIND, CELL_KIND, RELEASE_KIND = "move", "cell", "release"
TEXT_LIMIT = 2000  # characters of who and why: MLflow's limit of a tag is 8,000
LIST_LIMIT = 7500  # characters of a list in one tag
_RUN = "run"  # in a cell's tag

MoveKind = Literal["promotion", "retirement", "rollback"]
MoveState = Literal["done", "undone", "unfinished"]


@dataclass(frozen=True)
class VersionId:
    """A version that a channel points at, as a move records it. `number`: MLflow's own.

    `registered_model`: MLflow's name of the cell when it was read, empty in older records. It does not count when two
    are compared: a registered model may be renamed, and stays the same.
    """

    release: str
    number: int
    digest: str
    registered_model: str = field(default="", compare=False)

    @classmethod
    def of(cls, version: CellVersion) -> VersionId:
        """Return what names a version."""
        return cls(str(version.release), version.number, version.digest, version.registered_model)


@dataclass(frozen=True)
class CellMove:
    """One cell's part in a move. None: the channel pointed, or points now, at no version of the cell.

    `evidence`: the digest of what was decided on; `run_id`: MLflow's run that keeps it, with its report; empty where
    there is none, and in older records. No address is kept: that of the server may change, and may hold a login.
    """

    cell: str
    before: VersionId | None
    after: VersionId | None
    evidence: str | None = None
    run_id: str = ""


@dataclass(frozen=True)
class UnmovedCell:
    """A cell that a promotion left alone, and where its channel points."""

    cell: str
    at: VersionId


@dataclass(frozen=True)
class Move:
    """A promotion, a retirement or a rollback. `id`: the MLflow run that keeps it; empty where nothing had to move.

    `promoters`: the list that allowed it, None where none was set. `new_channel`: the channel of a promotion pointed
    at nothing before. `overrode`: why the promotion would have been
    refused without its override. `unmoved`: the channel's cells that a promoted release does not have.
    """

    id: str
    kind: MoveKind
    model: str
    channel: str
    who: str
    why: str
    when: datetime
    cells: tuple[CellMove, ...]
    state: MoveState = "done"
    undoes: str | None = None
    promoters: tuple[str, ...] | None = None
    overrode: tuple[Failure, ...] = ()
    unmoved: tuple[UnmovedCell, ...] = ()
    new_channel: bool = False

    @property
    def title(self) -> str:
        """One line for lists: `promotion of 1.1.0 to production`."""
        releases = sorted({move.after.release for move in self.cells if move.after is not None})
        what = ", ".join(releases) or "nothing"
        if self.kind == "promotion":
            return f"promotion of {what} to {self.channel}"
        if self.kind == "retirement":
            return f"retirement of {', '.join(move.cell for move in self.cells)} from {self.channel}"
        return f"rollback of {self.channel} to {what}"

    def to_tags(self) -> dict[str, str]:
        """Return the run's tags."""
        tags = {
            KIND_TAG: MOVE_KIND,
            MOVE_TAG: self.kind,
            CHANNEL_TAG: self.channel,
            WHO_TAG: self.who[:TEXT_LIMIT],
            WHY_TAG: self.why[:TEXT_LIMIT],
        }
        if self.undoes is not None:
            tags[UNDOES_TAG] = self.undoes
        if self.promoters is not None:
            tags[PROMOTERS_TAG] = json.dumps(self.promoters, ensure_ascii=False, allow_nan=False)
        if self.new_channel:
            tags[NEW_CHANNEL_TAG] = "true"
        if self.overrode:
            tags[OVERRODE_TAG] = _failures_tag(self.overrode)
        for move in self.cells:
            content = asdict(move)
            del content["cell"]
            if run_id := content.pop("run_id"):
                content[_RUN] = run_id
            tags[f"{CELL_TAG}.{move.cell}"] = json.dumps(content, sort_keys=True, allow_nan=False)
        for one in self.unmoved:
            tags[f"{UNMOVED_TAG}.{one.cell}"] = json.dumps(asdict(one.at), sort_keys=True, allow_nan=False)
        return tags


def move_from_tags(tags: Mapping[str, str], *, run_id: str, model: str, when: datetime, state: MoveState) -> Move:
    """Return the move that a run's tags keep. Raises `RegistryError` where they were changed by hand."""
    prefix = f"{CELL_TAG}."
    try:
        kind = tags[MOVE_TAG]
        if kind not in get_args(MoveKind):
            raise ValueError(kind)  # noqa: TRY301 - one damaged record, one message
        cells = []
        for key in sorted(key for key in tags if key.startswith(prefix)):
            content = parse_json(tags[key])
            before, after = (None if content[side] is None else _version(content[side]) for side in ("before", "after"))
            evidence, run = content["evidence"], content.get(_RUN, "")
            if not (isinstance(evidence, str | None) and isinstance(run, str)):
                raise TypeError(evidence, run)  # noqa: TRY301 - one damaged record, one message
            cells.append(CellMove(key.removeprefix(prefix), before, after, evidence, run))
        return Move(
            id=run_id,
            kind=kind,  # type: ignore[arg-type]
            model=model,
            channel=tags[CHANNEL_TAG],
            who=tags[WHO_TAG],
            why=tags.get(WHY_TAG, ""),
            when=when,
            cells=tuple(cells),
            state=state,
            undoes=tags.get(UNDOES_TAG),
            promoters=None if PROMOTERS_TAG not in tags else _texts(tags[PROMOTERS_TAG]),
            overrode=_failures(tags.get(OVERRODE_TAG, "[]")),
            unmoved=_unmoved(tags),
            new_channel=NEW_CHANNEL_TAG in tags,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RegistryError(
            f"MLflow's run {run_id} of model {model} is a damaged record of a move: {error}",
            fix=f"restore its tags, or remove it from the history: mlflow runs delete --run-id {run_id}",
        ) from error


def move_to_undo(moves: Sequence[Move], channel: str) -> Move | None:
    """Return a channel's last promotion or retirement that no rollback has taken back yet; `moves`: newest first."""
    done = [move for move in moves if move.channel == channel and move.state == "done"]
    undone = {move.undoes for move in done if move.kind == "rollback"}
    return next((move for move in done if move.kind != "rollback" and move.id not in undone), None)


def unended(moves: Sequence[Move]) -> list[Move]:
    """Return the moves that go on, or whose process died.

    No two moves begin at one moment. Records that do are one move's: MLflow's client repeated a request whose answer
    was lost. The move's end is in one of them.
    """
    ended = {move.when for move in moves if move.state != "unfinished"}
    return [move for move in moves if move.state == "unfinished" and move.when not in ended]


def promotion_of(moves: Sequence[Move], version: Version, cell: str | None = None) -> Move | None:
    """Return a move that brought a release, or one cell of it, to a channel; None where there was none."""
    for move in moves:
        for part in move.cells if move.state != "undone" else ():
            if part.after is not None and part.after.release == str(version) and cell in (None, part.cell):
                return move
    return None


def with_runs(moves: Sequence[Move], rows: Sequence[CellVersion]) -> list[Move]:
    """Return moves in which older records have their runs, too, where a version still has the evidence of then."""
    known = {(row.cell, row.number, row.evidence): row.run_id for row in rows}
    return [replace(move, cells=tuple(_with_run(part, known) for part in move.cells)) for move in moves]


def _with_run(part: CellMove, known: Mapping[tuple[str, int, str], str]) -> CellMove:
    if part.run_id or part.after is None or part.evidence is None:
        return part
    return replace(part, run_id=known.get((part.cell, part.after.number, part.evidence), ""))


def cells_taken_out(moves: Sequence[Move], channel: str) -> set[str]:
    """Return the cells that the last move of each has taken out of a channel; `moves`: newest first."""
    last: dict[str, CellMove] = {}
    for move in moves:
        for part in move.cells if (move.channel, move.state) == (channel, "done") else ():
            last.setdefault(part.cell, part)
    return {cell for cell, part in last.items() if part.after is None}


def _unmoved(tags: Mapping[str, str]) -> tuple[UnmovedCell, ...]:
    prefix = f"{UNMOVED_TAG}."
    keys = sorted(key for key in tags if key.startswith(prefix))
    return tuple(UnmovedCell(key.removeprefix(prefix), _version(parse_json(tags[key]))) for key in keys)


def _version(kept: Any) -> VersionId:
    version = VersionId(**kept)
    if type(version.number) is not int or not all(
        isinstance(v, str) for k, v in vars(version).items() if k != "number"
    ):
        raise TypeError(kept)
    return version


def _texts(raw: str) -> tuple[str, ...]:
    found = parse_json(raw)
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise ValueError(raw)
    return tuple(found)


def _failures(raw: str) -> tuple[Failure, ...]:
    found = parse_json(raw)
    if not isinstance(found, list):
        raise TypeError(raw)
    return tuple(_failure(one) for one in found)


def _failure(kept: object) -> Failure:
    """Read one that an override ignored; older records hold texts, `CELL: PROBLEM`."""
    if isinstance(kept, str):
        cell, separator, problem = kept.partition(": ")
        return Failure(cell, problem) if separator else Failure("", kept)
    if not isinstance(kept, dict) or not all(isinstance(value, str) for value in kept.values()):
        raise TypeError(kept)
    return Failure(**kept)


def _failures_tag(failures: Sequence[Failure]) -> str:
    """Return those that fit in a tag as JSON; a count, of no cell, stands for the rest."""
    kept: list[dict[str, str]] = []
    for failure in failures:
        one = asdict(Failure(failure.cell, failure.problem[:TEXT_LIMIT]))
        if len(json.dumps([*kept, one], ensure_ascii=False, allow_nan=False)) > LIST_LIMIT:
            kept.append(asdict(Failure("", f"and {len(failures) - len(kept)} more")))
            break
        kept.append(one)
    return json.dumps(kept, ensure_ascii=False, allow_nan=False)
