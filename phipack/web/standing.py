"""A channel: where the registry has it, next to what phones get. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from registry.catalog.documents import CellEntry, ChannelDocument, Documents, models_of, releases_of
from registry.catalog.rollout import ALL, Stage, share_of
from registry.ledger.versions import CellVersion, channels_at
from targets.references import Version

State = Literal["same", "rolling", "differs", "unpublished", "unknown"]
# Style and words of each state: first what counts most where the cells of a channel have several.
STATES: dict[State, tuple[str, str]] = {
    "differs": ("look", "Differs"),
    "unknown": ("none", "Not known"),
    "unpublished": ("none", "Not published"),
    "rolling": ("look", "Rolling out"),
    "same": ("pass", "Same"),
}
_UNREAD_REGISTRY: tuple[State, str] = ("unknown", "the registry can't be reached")
_UNREAD_CATALOG: tuple[State, str] = ("unknown", "the catalog can't be read")
_EXPIRED: tuple[State, str] = ("differs", "the published catalog has expired: phones refuse it")


@dataclass(frozen=True)
class Standing:
    """One cell of a channel.

    `registered`: where the registry has it; `stages`: what is published, newest first; `earlier`: releases that are
    kept for older apps. `text`: what the state means.
    """

    cell: str
    target: str
    registered: CellVersion | None
    stages: tuple[Stage, ...]
    earlier: tuple[str, ...]
    state: State
    text: str

    @property
    def kind(self) -> str:
        """The style of the state's word."""
        return STATES[self.state][0]

    @property
    def word(self) -> str:
        """The state as a word: it is never shown by a colour alone."""
        return STATES[self.state][1]

    @property
    def published(self) -> str:
        """The stages as text: `1.1.0 to 10 %, 1.0.0 to the others`."""
        if self.state == "unknown" and not self.stages:
            return "not known"
        return stages_text(self.stages)


def stages_text(stages: Sequence[Stage]) -> str:
    """Return stages as text, newest first."""
    if not stages:
        return "nothing"
    if len(stages) == 1 and stages[0].basis_points == ALL:
        return stages[0].release
    parts: list[str] = []
    for one in stages:
        is_rest = parts and one.basis_points == ALL
        parts.append(f"{one.release} to {'the others' if is_rest else f'{one.basis_points / 100:g} %'}")
    return ", ".join(parts)


def standings(
    model: str,
    channel: str,
    rows: Sequence[CellVersion] | None,
    published: Documents | None,
    *,
    is_expired: bool = False,
) -> list[Standing]:
    """Return the cells of a channel.

    `rows`, `published`: None where the registry or the catalog can't be read. `is_expired`: whether phones refuse the
    catalog by now. Raises `PhipackError` where a published document is damaged.
    """
    document = None if published is None else published.channel(model, channel)
    here = {row.cell: row for row in rows or () if row.model == model and channel in row.channels}
    there = {} if document is None else document.cells
    found = []
    for cell in sorted(here.keys() | there.keys()):
        row, stages = here.get(cell), tuple(there.get(cell, ()))
        entry = _published_cell(model, cell, stages, published)
        if rows is None:
            state, text = _UNREAD_REGISTRY
        elif published is None:
            state, text = _UNREAD_CATALOG
        elif document is None:
            state, text = "unpublished", "this channel is not published"
        elif is_expired:
            state, text = _EXPIRED
        else:
            state, text = _compared(row, stages, None if entry is None else entry.bundle)
        earlier = () if document is None else tuple(document.earlier.get(cell, ()))
        target = row.target if row is not None else "" if entry is None else entry.target
        found.append(Standing(cell, target, row, stages, earlier, state, text))
    return found


def channels_of(model: str, rows: Sequence[CellVersion] | None, published: Documents | None) -> list[str]:
    """Return the channels of a model that point somewhere or are published, production first."""
    found = channels_at(row for row in rows or () if row.model == model)
    before = f"{model}/channels/"
    paths = () if published is None else published.paths
    found |= {path.removeprefix(before).removesuffix(".json") for path in paths if path.startswith(before)}
    return sorted(found, key=lambda name: (name != "production", name))


def models_in(rows: Sequence[CellVersion] | None, published: Documents | None) -> list[str]:
    """Return the models that are registered or published."""
    return sorted({row.model for row in rows or ()} | set(() if published is None else models_of(published.paths)))


def published_releases(model: str, published: Documents | None) -> list[Version]:
    """Return the releases that are published, newest first."""
    paths = () if published is None else published.paths
    return sorted((Version.parse(one) for one in releases_of(model, paths)), reverse=True)


def channel_document(model: str, channel: str, published: Documents | None) -> ChannelDocument | None:
    """Return a published channel; None where it is not published. Raises `PhipackError` where it is damaged."""
    return None if published is None else published.channel(model, channel)


def _compared(row: CellVersion | None, stages: Sequence[Stage], digest: str | None) -> tuple[State, str]:
    """Compare one cell of both sides. `digest`: of the bundle that is published as the newest stage."""
    if row is None:
        return "differs", "taken out of the channel, and still published"
    if not stages:
        return "differs", f"{row.release} is not published"
    newest = stages[0]
    if newest.release != str(row.release):
        state = "out for some of the phones only" if share_of(stages, str(row.release)) else "not published yet"
        return "differs", f"{row.release} is {state}: phones get {stages_text(stages)}"
    if digest != row.digest:
        return "differs", f"{row.release} is published with other bytes than those that are registered"
    if newest.basis_points < ALL:
        return "rolling", f"{newest.basis_points / 100:g} % of the installations get it"
    return "same", "phones get what the registry has"


def _published_cell(model: str, cell: str, stages: Sequence[Stage], published: Documents | None) -> CellEntry | None:
    """Return a cell as its newest stage is published."""
    document = None if published is None or not stages else published.release(model, stages[0].release)
    return None if document is None else document.cells.get(cell)
