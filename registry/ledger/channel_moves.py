"""Moves of channels: what a promotion or a rollback changed, as it is kept in MLflow. Pure.

A move is a run in the experiment MODEL, visible and searchable there:

    run name   promotion of 1.1.0 to production
    status     RUNNING while the aliases move, FINISHED when all have moved, FAILED when they were moved back
    tags       phipack.kind = move, phipack.move = promotion | rollback, phipack.channel, phipack.who, phipack.why,
               phipack.undoes = ID of the promotion that a rollback took back,
               phipack.promoters = ["alice", …], the list that allowed it; no tag: everybody might,
               phipack.overrode = ["pixel-9: kl_mean is 0.2, …"], what stood against a promotion that went ahead,
               phipack.cell.CELL = {"before": STAND, "after": STAND, "evidence": sha256:…}, one tag a cell that moved
               where STAND is {"release": 1.0.0, "number": MLflow's version, "digest": sha256:…} or null
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Literal

from registry.ledger.versions import CELL_TAG, TAG_PREFIX, CellVersion
from targets.errors import RegistryError

KIND_TAG = TAG_PREFIX + "kind"
MOVE_TAG = TAG_PREFIX + "move"
CHANNEL_TAG = TAG_PREFIX + "channel"
WHO_TAG = TAG_PREFIX + "who"
WHY_TAG = TAG_PREFIX + "why"
UNDOES_TAG = TAG_PREFIX + "undoes"
PROMOTERS_TAG = TAG_PREFIX + "promoters"
OVERRODE_TAG = TAG_PREFIX + "overrode"
MOVE_KIND, CELL_KIND = "move", "cell"
TEXT_LIMIT = 2000  # characters of who and why: MLflow's limit of a tag is 8,000
LIST_LIMIT = 7500  # characters of a list in one tag

MoveKind = Literal["promotion", "rollback"]
MoveState = Literal["done", "undone", "unfinished"]


@dataclass(frozen=True)
class Stand:
    """Where a channel stands for a cell."""

    release: str
    number: int
    digest: str

    @classmethod
    def of(cls, version: CellVersion) -> Stand:
        """The stand at a version."""
        return cls(str(version.release), version.number, version.digest)


@dataclass(frozen=True)
class CellMove:
    """One cell's part in a move. None: the channel did not, or does not any more, hold the cell."""

    cell: str
    before: Stand | None
    after: Stand | None
    evidence: str | None = None


@dataclass(frozen=True)
class Move:
    """A promotion or a rollback. `id`: the MLflow run that keeps it; empty where nothing had to move.

    `promoters`: the list that allowed it, None where everybody might. `overrode`: what stood against a promotion that
    went ahead in spite of it.
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
    overrode: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """One line for lists: `promotion of 1.1.0 to production`."""
        releases = sorted({move.after.release for move in self.cells if move.after is not None})
        what = ", ".join(releases) or "nothing"
        if self.kind == "promotion":
            return f"promotion of {what} to {self.channel}"
        return f"rollback of {self.channel} to {what}"

    def to_tags(self) -> dict[str, str]:
        """Give the run's tags."""
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
            tags[PROMOTERS_TAG] = json.dumps(self.promoters, ensure_ascii=False)
        if self.overrode:
            tags[OVERRODE_TAG] = json.dumps(_within_a_tag(self.overrode), ensure_ascii=False)
        for move in self.cells:
            content = asdict(move)
            del content["cell"]
            tags[f"{CELL_TAG}.{move.cell}"] = json.dumps(content, sort_keys=True)
        return tags


def move_from_tags(tags: Mapping[str, str], *, run_id: str, model: str, when: datetime, state: MoveState) -> Move:
    """Read a move back. Raises `RegistryError` where somebody changed the run's tags."""
    prefix = f"{CELL_TAG}."
    try:
        kind = tags[MOVE_TAG]
        if kind not in ("promotion", "rollback"):
            raise ValueError(kind)  # noqa: TRY301 - one damaged record, one message
        cells = []
        for key in sorted(key for key in tags if key.startswith(prefix)):
            content = json.loads(tags[key])
            stands = [None if content[side] is None else Stand(**content[side]) for side in ("before", "after")]
            cells.append(CellMove(key.removeprefix(prefix), stands[0], stands[1], content["evidence"]))
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
            overrode=_texts(tags.get(OVERRODE_TAG, "[]")),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RegistryError(
            f"MLflow's run {run_id} of model {model} is a damaged record of a move: {error}",
            fix=f"put its tags back, or take it out of the history: mlflow runs delete --run-id {run_id}",
        ) from error


def promotion_to_undo(moves: Sequence[Move], channel: str) -> Move | None:
    """Give the last promotion of a channel that no rollback has taken back yet; `moves` newest first."""
    done = [move for move in moves if move.channel == channel and move.state == "done"]
    undone = {move.undoes for move in done if move.kind == "rollback"}
    return next((move for move in done if move.kind == "promotion" and move.id not in undone), None)


def _texts(raw: str) -> tuple[str, ...]:
    found = json.loads(raw)
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise ValueError(raw)
    return tuple(found)


def _within_a_tag(texts: Sequence[str]) -> list[str]:
    """Keep what fits; a count stands for the rest."""
    kept: list[str] = []
    for text in texts:
        if len(json.dumps([*kept, text[:TEXT_LIMIT]], ensure_ascii=False)) > LIST_LIMIT:
            return [*kept, f"and {len(texts) - len(kept)} more"]
        kept.append(text[:TEXT_LIMIT])
    return kept
